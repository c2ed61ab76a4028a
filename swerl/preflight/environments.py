"""Family `environment`: the two Python environments against the lock, and what could come between them and their packages."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from swerl.environment.installer import HOST_PATHS, MANIFEST
from swerl.environment.inventory import normalise
from swerl.environment.lock import Lock, load_lock
from swerl.errors import SwerlError
from swerl.preflight.check import Check, Fact, Finding, NotApplicable
from swerl.preflight.context import Context

_SHADOWED = ("docker", "verl", "vllm", "ray", "harbor", "torch", "transformers", "wandb", "swerl")
_ALLOWED_SURPLUS = {"swerl"}
_SHOWN = 3


def _environments(ctx: Context) -> tuple[tuple[str, Path, str], ...]:
    """(what, where, extra of the lock it is installed with)."""
    kind = "cpu" if ctx.on_cpu else "gpu"
    return (
        ("environment.venv_path", ctx.cfg.environment.venv_path, kind),
        ("environment.trials_venv_path", ctx.cfg.environment.trials_venv_path, "trials"),
    )


def installed(venv: Path) -> dict[str, str]:
    """Normalised names and versions of the distributions of a virtual environment, from the names of their ``.dist-info`` directories."""
    found = {}
    for site in reversed(_places(venv)):
        for info in site.glob("*.dist-info"):
            name, _, version = info.name.removesuffix(".dist-info").rpartition("-")
            found[normalise(name)] = version
    return found


def _places(venv: Path) -> list[Path]:
    """Where this environment's packages lie: its own directory first, then the host's that a bundle points to."""
    places = sorted(venv.glob("lib/python3.*/site-packages"))
    for site in list(places):
        if (hosts := site / HOST_PATHS).is_file():
            places += [Path(line) for line in hosts.read_text().splitlines() if line]
    return places


def _left_out(venv: Path) -> set[str]:
    """Packages that the bundle this environment came from leaves out on purpose; empty for one made by `make setup`."""
    record = venv.parent / MANIFEST
    dropped = json.loads(record.read_text())["dropped"] if record.is_file() else []
    mine = (entry.partition(": ")[2] for entry in dropped if entry.startswith(f"{venv.name}: "))
    return {entry.partition(" ")[0] for entry in mine if " " in entry and "/" not in entry}


class EnvironmentsExist(Check):
    id = "SWERL-P801"
    family = "environment"
    title = "Python environments"
    asks = "both environments are there, each with its Python"
    remedy = "run `make setup`"

    def run(self, ctx: Context) -> Iterator[Finding]:
        for key, venv, _ in _environments(ctx):
            if not (venv / "bin" / "python").exists():
                remedy = f"run `{ctx.cfg.environment.bootstrap_script}`"
                yield self.found(f"no Python environment at {venv}", ctx.source(key), remedy=remedy)
            else:
                yield Fact(str(venv))


class EnvironmentsMatchLock(Check):
    id = "SWERL-P802"
    family = "environment"
    title = "installed versions"
    asks = "what is installed are the versions of the lock; `swerl env verify` compares every file"
    remedy = "run `make setup`, which installs exactly what uv.lock says"
    live = True
    budget_s = 8.0
    faults = (45,)

    def run(self, ctx: Context) -> Iterator[Finding]:
        lock_path = ctx.cfg.environment.requirements
        try:
            lock = load_lock(lock_path)
        except SwerlError as error:
            yield self.found(f"the lock cannot be read: {error.problems[0].message}", str(lock_path))
            return
        for key, venv, extra in _environments(ctx):
            if (venv / "bin" / "python").exists():
                yield from self._compare(ctx, lock, key, venv, extra)

    def _compare(self, ctx: Context, lock: Lock, key: str, venv: Path, extra: str) -> Iterator[Finding]:
        if extra not in lock.extras:
            raise NotApplicable(f"{lock.path} has no extra {extra!r}")
        have, closure = installed(venv), lock.closure([extra])
        missing = [n for n in closure if n not in have and n not in _left_out(venv)]
        other = [f"{n} {have[n]} (lock: {p.version})" for n, p in closure.items() if n in have and have[n] != p.version]
        sibling = {"gpu": "cpu", "cpu": "gpu"}.get(extra)
        if missing and sibling and all(have.get(n) for n in lock.closure([sibling])):
            yield self.found(
                f"{venv} was installed with the extra {sibling}, infrastructure.device is {ctx.cfg.infrastructure.device}",
                ctx.source(key),
                remedy=f"run `make setup` with the extra {extra}, or set infrastructure.device",
            )
            return
        if missing:
            yield self.found(f"{len(missing)} locked packages are not in {venv}: {_some(missing)}", ctx.source(key))
        if other:
            yield self.found(f"{len(other)} packages of {venv} have another version: {_some(other)}", ctx.source(key))
        yield Fact(f"{extra}: {len(closure) - len(missing) - len(other)} of {len(closure)} as locked")


def _some(names: list[str]) -> str:
    return ", ".join(sorted(names)[:_SHOWN]) + (" and more" if len(names) > _SHOWN else "")


class NothingShadows(Check):
    id = "SWERL-P803"
    family = "environment"
    title = "names on the import path"
    asks = "no directory on PYTHONPATH or in the working directory hides an installed package"
    remedy = "rename the directory, or take it off PYTHONPATH"
    faults = (8,)

    def run(self, ctx: Context) -> Iterator[Finding]:
        places = [Path(p) for p in ctx.env.get("PYTHONPATH", "").split(os.pathsep) if p] + [ctx.cfg.base_dir]
        for place in dict.fromkeys(p.resolve() for p in places):
            for name in _SHADOWED:
                directory = place / name
                if not directory.is_dir() or _is_checkout_of(place, name):
                    continue
                if any(directory.glob("*.py")) or (directory / "__init__.py").exists():
                    yield self.found(f"{directory} hides the package {name}", str(directory))


def _is_checkout_of(place: Path, name: str) -> bool:
    """The source tree of a package may be on the path: its pyproject.toml says that it is that package."""
    project = place / "pyproject.toml"
    return (
        project.is_file() and re.search(rf'^name\s*=\s*"{re.escape(name)}"', project.read_text(errors="replace"), re.MULTILINE) is not None
    )


_ATTENTION_PACKAGES = {"flash_attention_4": "flash-attn-4", "flash_attention_2": "flash-attn"}


class AttentionIsInstalled(Check):
    id = "SWERL-P804"
    family = "environment"
    title = "attention kernel"
    asks = "the package of training.attention is installed; the lock has flash-attn-4, a pure wheel; flash-attn 2 is source-only"
    remedy = "set training.attention: flash_attention_4 and run `make setup EXTRA=gpu`, or build flash-attn for this torch"

    def run(self, ctx: Context) -> Iterator[Finding]:
        attention, venv = ctx.cfg.training.attention, ctx.cfg.environment.venv_path
        if not attention.startswith("flash_attention"):
            raise NotApplicable(f"training.attention is {attention}: part of torch")
        if not (venv / "bin" / "python").exists():
            raise NotApplicable("the environment is missing (SWERL-P801)")
        if ctx.on_cpu:
            yield self.found(f"training.attention {attention} needs a GPU", ctx.source("training.attention"))
        elif (package := _ATTENTION_PACKAGES[attention]) not in installed(venv):
            yield self.found(f"training.attention {attention}, but {package} is not installed in {venv}", ctx.source("training.attention"))
        else:
            yield Fact(f"{package} {installed(venv)[package]}")


class ParserExists(Check):
    id = "SWERL-P805"
    family = "environment"
    title = "parsers"
    asks = "vLLM has the tool parser and the reasoning parser that are named"
    remedy = "use a name that vLLM's registry has, or model.tool_parser: auto"
    faults = (1,)

    def run(self, ctx: Context) -> Iterator[Finding]:
        for key, wanted, package in (
            ("model.tool_parser", ctx.cfg.model.tool_parser, "tool_parsers"),
            ("model.reasoning_parser", ctx.cfg.model.reasoning_parser, "reasoning"),
        ):
            if wanted in (None, "auto"):
                continue
            registry = next(iter(ctx.cfg.environment.venv_path.glob(f"lib/python3.*/site-packages/vllm/{package}/__init__.py")), None)
            if registry is None:
                raise NotApplicable("vLLM is not installed (SWERL-P802)")
            known = set(re.findall(r'^    "([a-z0-9_.-]+)": \(', registry.read_text(), re.MULTILINE))
            if wanted not in known:
                yield self.found(
                    f"vLLM has no {key.partition('.')[2].replace('_', ' ')} {wanted!r}; it has {', '.join(sorted(known))}", ctx.source(key)
                )
            yield Fact(str(wanted))


class TrackerKey(Check):
    id = "SWERL-P851"
    family = "credentials"
    title = "W&B"
    asks = "there is a key for W&B when it is used online; without one the run is recorded offline"
    remedy = "export WANDB_API_KEY, or set credentials.wandb_mode: offline (or disabled)"
    severity = "warning"

    def run(self, ctx: Context) -> Iterator[Finding]:
        mode = ctx.cfg.credentials.wandb_mode
        if "wandb" not in ctx.cfg.experiment.logger:
            raise NotApplicable("experiment.logger does not name wandb")
        if mode != "online":
            yield Fact(mode)
            return
        if not ctx.cfg.secrets.wandb_api_key:
            yield self.found(
                "wandb_mode is online and there is no key: the run would be recorded offline", ctx.source("credentials.wandb_mode")
            )
        yield Fact("online")


class SomebodyIsTold(Check):
    id = "SWERL-P852"
    family = "credentials"
    title = "notifications"
    asks = "whoever is told of alarms and of the run's end can be: the command is installed, the webhook is an address that resolves"
    remedy = "correct notify.command or SWERL_NOTIFY_WEBHOOK, or leave them empty"
    severity = "warning"
    live = True
    budget_s = 5.0

    def run(self, ctx: Context) -> Iterator[Finding]:
        words, webhook = shlex.split(ctx.cfg.notify.command or ""), ctx.cfg.secrets.webhook
        if not words and not webhook:
            raise NotApplicable("nobody is to be told")
        if words and ctx.program(words[0]) is None:
            yield self.found(f"the command {words[0]} is not installed", ctx.source("notify.command"))
        host = urlsplit(webhook).hostname
        if webhook and (urlsplit(webhook).scheme not in ("http", "https") or not host):
            yield self.found("the webhook is no http address", ctx.source("notify.webhook"))
        elif host and not (answer := ctx.ask(["getent", "ahosts", host], timeout_s=3.0)).ok and answer.code is not None:
            yield self.found(f"the webhook's host {host} does not resolve", ctx.source("notify.webhook"))
        yield Fact(" and ".join(filter(None, ("a command" if words else "", "a webhook" if webhook else ""))))


CHECKS = (
    EnvironmentsExist(),
    EnvironmentsMatchLock(),
    NothingShadows(),
    AttentionIsInstalled(),
    ParserExists(),
    TrackerKey(),
    SomebodyIsTold(),
)
