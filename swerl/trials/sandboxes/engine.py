"""The docker command line: running it, what a run lays over each compose project, and removing what a run left.

Harbor runs one compose project a trial. Everything of a run's projects carries its label: containers of every service, networks, named
volumes; commands of a run that still talk to the engine carry its tag in their environment. `reap` goes by these and by nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import psutil
import yaml

from swerl.errors import fail

LABEL = "swerl.run"
TAG_VARIABLE = "SWERL_DOCKER_RUN"
HOST = "host.docker.internal"
_CHUNK = 1 << 16
# Variables that would change the docker client itself if it had them for the container's sake.
_CLIENTS_OWN = ("PATH", "HOME", "TMPDIR", "DOCKER_", "LD_", "XDG_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "GO")


class EngineAway(RuntimeError):
    """The engine does not answer."""


class TooMuch(RuntimeError):
    """A command wrote more than its reader takes."""


@dataclass(frozen=True, slots=True)
class Done:
    code: int
    stdout: bytes
    stderr: bytes


def overlay(path: Path, run_tag: str, network: str, max_processes: int, others: Sequence[Path] = ()) -> Path:
    """Write the compose file laid over a trial's (JSON is YAML) to ``path``. ``others`` are the task's own compose files: what they declare
    is labelled too. Killed at once when it stops, because nothing in it is kept."""
    labels = {LABEL: run_tag}
    declared: dict[str, dict[str, Any]] = {"services": {}, "networks": {}, "volumes": {}}
    for other in others:
        document = yaml.safe_load(other.read_text()) or {}
        for kind, known in declared.items():
            known |= {name: {"labels": labels} for name, body in (document.get(kind) or {}).items() if not (body or {}).get("external")}
    main: dict[str, Any] = {
        "init": True,
        "stop_signal": "SIGKILL",
        "stop_grace_period": "1s",
        "pids_limit": max_processes,
        "security_opt": ["no-new-privileges:true"],
        "labels": labels,
    }
    if network == "public":
        main["extra_hosts"] = [f"{HOST}:host-gateway"]
        declared["networks"]["default"] = {"labels": labels}
    else:
        main["network_mode"] = "none"
    declared["services"]["main"] = main
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({kind: body for kind, body in declared.items() if body}, indent=1))
    return path


def inside_url(public_url: str) -> str:
    """The gateway's address as a container with a network sees it: a gateway on this host's loopback is reached under the host's name."""
    parts = urlsplit(public_url)
    if parts.hostname not in ("127.0.0.1", "localhost", "::1"):
        return public_url
    return parts._replace(netloc=f"{HOST}:{parts.port}").geturl()


def require() -> str:
    """The engine's address. Blocking. SWERL-T055 names what is missing: the client, compose v2, the engine."""
    return _required(tuple(os.environ.get(name) for name in ("PATH", "DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG")))


@cache
def _required(_: tuple[str | None, ...]) -> str:
    remedy = "install docker and its compose plugin (v2), start the engine, or set harbor_agent.docker_host"
    for what, arguments in (
        ("the docker command", ("--version",)),
        ("docker compose (v2)", ("compose", "version")),
        ("the engine", ("version", "--format", "{{.Server.Version}}")),
    ):
        try:
            _docker(*arguments)
        except RuntimeError as error:
            raise fail("SWERL-T055", f"{what} is missing: {error}", remedy, "harbor_agent.docker_host") from error
    return os.environ.get("DOCKER_HOST") or _docker("context", "inspect", "--format", "{{.Endpoints.docker.Host}}").strip()


async def run(
    arguments: Sequence[str],
    *,
    stdin: BinaryIO | None = None,
    keep_bytes: int = 8 << 20,
    into: BinaryIO | None = None,
    limit_bytes: int = 0,
    env: Mapping[str, str] | None = None,
    on_output: Callable[[str, str], Awaitable[None]] | None = None,
) -> Done:
    """``docker *arguments``. Of each stream ``keep_bytes`` are kept and the rest is read and dropped; with ``into`` stdout goes there, and
    more than ``limit_bytes`` of it raises TooMuch. Cancelled, it ends the client."""
    process = await asyncio.create_subprocess_exec(
        "docker",
        *arguments,
        stdin=stdin or asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **(env or {})},
    )
    assert process.stdout is not None and process.stderr is not None

    async def drain(stream: asyncio.StreamReader, name: str) -> bytes:
        kept, seen = bytearray(), 0
        while data := await stream.read(_CHUNK):
            seen += len(data)
            if name == "stdout" and into is not None:
                if seen > limit_bytes:
                    raise TooMuch(f"more than {limit_bytes >> 20} MiB")
                into.write(data)
                continue
            kept += data[: max(0, keep_bytes - len(kept))]
            if on_output is not None:
                await on_output(data.decode(errors="replace"), name)
        return bytes(kept)

    try:
        stdout, stderr = await asyncio.gather(drain(process.stdout, "stdout"), drain(process.stderr, "stderr"))
        return Done(await process.wait(), stdout, stderr)
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await asyncio.shield(process.wait())


def variables(env: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """Arguments and client environment that give a container's command ``env``: values stay off the command line, which every user of this
    host can read, except those that would change the client."""
    plain = {name: value for name, value in env.items() if name.upper().startswith(_CLIENTS_OWN)}
    arguments = [part for name in env for part in ("--env", f"{name}={env[name]}" if name in plain else name)]
    return arguments, {name: value for name, value in env.items() if name not in plain}


def reap(run_tag: str) -> int:
    """Remove containers, networks and volumes that carry this run's label, after ending commands that might still make some; how many.
    RuntimeError with docker's words when it cannot be asked."""
    label, removed = f"label={LABEL}={run_tag}", 0
    ended = _end_commands(run_tag)
    while True:
        found = 0
        for listing, removal in (
            (("ps", "--all"), ("rm", "--force", "--volumes")),
            (("network", "ls"), ("network", "rm")),
            (("volume", "ls"), ("volume", "rm", "--force")),
        ):
            if names := _docker(*listing, "--quiet", "--filter", label).split():
                _docker(*removal, *names)
                found += len(names)
        removed += found
        if not found and not ended:
            return removed
        if ended:
            time.sleep(1.0)  # what the engine was asked to make just before its client was ended
            ended = 0


def _end_commands(run_tag: str) -> int:
    """Kill docker clients that an ended runner of this run left at work."""
    ended = 0
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if "docker" in process.name() and process.environ().get(TAG_VARIABLE) == run_tag and process.ppid() != os.getpid():
                process.send_signal(signal.SIGKILL)
                ended += 1
    return ended


def _docker(*arguments: str) -> str:
    try:
        done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(f"docker {arguments[0]}: {error}") from error
    if done.returncode != 0:
        raise RuntimeError(f"docker {arguments[0]}: {(done.stderr or done.stdout).strip()[:500]}")
    return done.stdout
