"""Family `config`: the profile itself, before anything is looked at."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from swerl.config.schema import PROJECT_ROOT
from swerl.errors import Problem, SwerlError
from swerl.facts.probe import ProbeFailed
from swerl.preflight.check import Check, Fact, Finding, NotApplicable
from swerl.preflight.context import Context
from swerl.record.lock import describe_holder
from swerl.render import render
from swerl.render.overrides_check import check_overrides, ours
from swerl.render.verl import plain_name
from swerl.render.verl_keys import known_keys

VERL_PROBE = Path(__file__).with_name("verl_probe.py")

_TIME_IN_NAME = re.compile(r"(?<!\d)20\d{2}[-_.]?(0[1-9]|1[0-2])[-_.]?([0-2]\d|3[01])(?!\d)|(?<!\d)1[5-9]\d{8}(?!\d)|\d{8}[-_T]\d{4,6}")


class ConfigurationIsValid(Check):
    id = "SWERL-P001"
    family = "config"
    title = "configuration"
    asks = "the configuration obeys its schema and nothing in it is still a placeholder (the findings carry ids of the C family)"
    remedy = "correct the key at the place named"
    faults = (25,)

    def run(self, ctx: Context) -> Iterator[Finding]:
        yield from ctx.config_problems
        profile = f" with profile {ctx.cfg.profile}" if ctx.cfg.profile else ""
        yield Fact(f"{ctx.cfg.file.name}{profile}, digest {ctx.cfg.digest[:12]}")


class NameHoldsNoTime(Check):
    id = "SWERL-P002"
    family = "config"
    title = "experiment name"
    asks = "the experiment's name stays the same from one start to the next, so that the same command resumes the run"
    remedy = "take the date or time out of experiment.exp_name; the registry records when a run started"
    severity = "fatal"
    faults = (43,)

    def run(self, ctx: Context) -> Iterator[Finding]:
        name = ctx.cfg.experiment.exp_name
        match = _TIME_IN_NAME.search(name)
        if match:
            yield self.found(
                f"experiment.exp_name {name!r} holds the time {match.group(0)!r}: the next start would begin a new run instead of resuming",
                ctx.source("experiment.exp_name"),
            )
        yield Fact(name)


class RunIsNotAlive(Check):
    id = "SWERL-P003"
    family = "config"
    title = "no other process runs this run"
    asks = "nobody else is running the run of this name"
    remedy = "watch it with `swerl status`, end it with `swerl stop`, or give this run another experiment.exp_name"
    live = True

    def run(self, ctx: Context) -> Iterator[Finding]:
        lock = ctx.cfg.run_dir / "run.lock"
        if is_held(lock, ctx):
            yield self.found(f"run {ctx.cfg.run_id} is held by {describe_holder(lock)}", str(lock))
        yield Fact("resumes" if ctx.run_dir.manifest.exists() else "new run")


def is_held(lock: Path, ctx: Context) -> bool:
    """Whether some process holds a flock on the file, read from the kernel's list: asking with flock would itself take the lock."""
    try:
        inode = lock.stat().st_ino
        lines = (ctx.host.proc / "locks").read_text().splitlines()
    except OSError:
        return False
    return any(f":{inode} " in line and " FLOCK " in line for line in lines)


class RunRenders(Check):
    id = "SWERL-P004"
    family = "config"
    title = "rendered run"
    asks = "the configuration can be rendered: agent, sandbox and engine can do what the keys ask (the findings carry ids of the C family)"
    remedy = "correct the key at the place named"

    def run(self, ctx: Context) -> Iterator[Finding]:
        try:
            rendered = render(ctx.cfg, ctx.run_dir)
        except SwerlError as error:
            yield from error.problems
        else:
            yield Fact(f"{len(rendered.overrides)} verl settings")


class OverridesAreKnown(Check):
    id = "SWERL-P005"
    family = "config"
    title = "verl_overrides"
    asks = "every entry of verl_overrides is a key of the installed verl, and none fights a key of swerl"
    remedy = "correct the entry named"
    live = True
    budget_s = 9.5

    def run(self, ctx: Context) -> Iterator[Finding]:
        if not ctx.cfg.verl_overrides:
            raise NotApplicable("verl_overrides is empty")
        version, problems = ctx.once("override names", lambda: _names(ctx))
        yield from problems
        yield Fact(f"{len(ctx.cfg.verl_overrides)} entries" + (f", verl {version}" if version else ""))


def _names(ctx: Context) -> tuple[str, list[Problem]]:
    """The version of verl (empty where it cannot be asked) and what is wrong with the names in verl_overrides."""
    python = ctx.cfg.environment.venv_path / "bin" / "python"
    with tempfile.TemporaryDirectory() as scratch:  # known_keys writes its cache: that of the project is only read here
        for cached in (PROJECT_ROOT / "build").glob("verl-keys-*.json"):
            (Path(scratch) / cached.name).symlink_to(cached)
        try:
            known = known_keys(python, Path(scratch))
        except SwerlError as error:
            return "", list(error.problems)
    return known.version, check_overrides(ctx.cfg, ctx.run_dir, known)


class VerlAccepts(Check):
    id = "SWERL-P006"
    family = "config"
    title = "verl's own view"
    asks = (
        "the installed verl takes the configuration as the run will give it: names, values, groups, and, on a batch of two answers, the"
        " correction, the advantage estimator and the loss"
    )
    remedy = "change the value named; the words are verl's own"
    live = True
    budget_s = 9.8

    def run(self, ctx: Context) -> Iterator[Finding]:
        if ctx.cfg.verl_overrides and ctx.once("override names", lambda: _names(ctx))[1]:
            raise NotApplicable("verl_overrides has entries that cannot be passed on (SWERL-P005)")
        try:
            overrides = [_without_places(ctx, text) for text in render(ctx.cfg, ctx.run_dir).overrides]
        except SwerlError as error:
            raise NotApplicable("the configuration cannot be rendered (SWERL-P004)") from error
        given = {plain_name(name): value for name, value in ctx.cfg.verl_overrides.items()}
        question = {"overrides": overrides, "given": given, "modules": ctx.cfg.algorithm.modules}
        try:
            said = ctx.asked(VERL_PROBE, question, timeout_s=9.5)
        except ProbeFailed as error:
            yield self.found(f"verl cannot be asked: {error}", severity="warning", remedy="run `make setup` if SWERL-P802 complains")
            return
        for problem in said["problems"]:
            yield self._of(ctx, problem["key"], problem["says"])
        yield Fact("taken" if not said["problems"] else f"{len(said['problems'])} refusals")

    def _of(self, ctx: Context, key: str, says: str) -> Problem:
        """Named by the key that a person wrote: an entry of verl_overrides, else ours."""
        written = next((name for name in ctx.cfg.verl_overrides if key and plain_name(name) == key), None)
        if written is not None:
            return self.found(f"`verl_overrides.{written}`: {says}", ctx.source(f"verl_overrides.{written}"))
        names = ours(key)
        name = next((n for n in sorted(names, key=len, reverse=True) if n.rpartition(".")[2] in says), names[0] if len(names) == 1 else "")
        return self.found(f"{name or key or 'the configuration'}: {says}", ctx.source(name or key))


def _without_places(ctx: Context, text: str) -> str:
    """verl reads no file here, so that the answer, and what it is kept under, does not depend on where the files lie."""
    data, run = ctx.cfg.data, ctx.run_dir.root
    for path, word in ((run, "/run"), (ctx.cfg.model.model_path, "/policy"), (data.train_index, "/train"), (data.val_index, "/val")):
        text = text.replace(str(path), word)
    return text


CHECKS = (ConfigurationIsValid(), NameHoldsNoTime(), RunIsNotAlive(), RunRenders(), OverridesAreKnown(), VerlAccepts())
