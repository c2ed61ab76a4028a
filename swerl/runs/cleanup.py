"""Ending what a run left: processes, sandboxes, shared memory, Ray's directory. Nothing of another run, and nothing of anybody else."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import subprocess
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

from swerl.errors import fail
from swerl.facts.sandbox import kind_of
from swerl.record.process import PROCESS_VARIABLE, TOKEN_VARIABLE, Seen, end_processes, owned_processes
from swerl.record.registry import Registry
from swerl.record.rundir import RunDir, read_json, write_atomic
from swerl.runs import sharedmemory
from swerl.trials.sandboxes import reaper
from swerl.trials.settings import run_tag

REAP_S = 180.0


@dataclass(frozen=True, slots=True)
class Swept:
    """What ``sweep`` ended and removed."""

    processes: tuple[Seen, ...]
    segments: tuple[str, ...]
    sandboxes: int
    not_asked: str = ""  # why containers or pods that there may be were not looked for

    def __bool__(self) -> bool:
        return bool(self.processes or self.segments or self.sandboxes or self.not_asked)

    def __str__(self) -> str:
        parts = []
        if self.processes:
            parts.append("ended " + ", ".join(f"{seen.command} (pid {seen.pid})" for seen in self.processes))
        if self.segments:
            parts.append(f"removed {len(self.segments)} shared-memory segments")
        if self.sandboxes:
            parts.append(f"removed {self.sandboxes} parts of sandboxes")
        if self.not_asked:
            parts.append(f"containers or pods of the run may be left: {self.not_asked}")
        return "; ".join(parts) or "nothing was left"


def token_of(run: RunDir) -> str:
    """The run's token, made on first use. It stays the same for the life of the directory, so that every leftover is recognised."""
    try:
        return run.token.read_text().strip()
    except FileNotFoundError:
        write_atomic(run.token, f"{run.id}-{secrets.token_hex(16)}\n".encode(), mode=0o600)
        return run.token.read_text().strip()


def owned(run: RunDir, registry: Registry, name: str | None = None) -> list[Seen]:
    """Living processes of the run, of this supervisor or an earlier one; with ``name``, those that came from that process of the plan."""
    marks = {TOKEN_VARIABLE: token_of(run)} | ({} if name is None else {PROCESS_VARIABLE: name})
    sessions = [process.ref for process in registry.processes(run.id) if name in (None, process.name)]
    return owned_processes(marks, sessions, keep={os.getpid()})


def note_shared_memory(run: RunDir, registry: Registry) -> set[sharedmemory.Segment]:
    """Which segments the run's living processes use, also written down for a later ``sweep``. On a full disk only the writing is left
    undone: ending the processes matters more."""
    found = sharedmemory.in_use(seen.pid for seen in owned(run, registry))
    try:
        sharedmemory.remember(run.leftovers, found)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
    return found


def sweep(run: RunDir, registry: Registry, *, grace_s: float, segments: AbstractSet[sharedmemory.Segment] = frozenset()) -> Swept:
    """End every process of the run and remove its sandboxes, shared memory and scratch directory. Needs the run's lock. Repeatable.
    ``segments`` were in use before the caller ended anything, and may not have been written down.

    A process that survives SIGKILL (stuck in the kernel) is an error: starting over it would share its GPU and ports."""
    in_use = note_shared_memory(run, registry)
    ended, left = end_processes(lambda: owned(run, registry), grace_s=grace_s)
    if left:
        names = ", ".join(f"{seen.command} (pid {seen.pid}, state {seen.state})" for seen in left)
        raise fail("SWERL-R007", f"processes of run {run.id} cannot be ended: {names}", "end them by hand, or restart the machine")
    reaped = reaper.reap(run_tag(run.root), sandboxes_of(run))
    elsewhere, not_asked = reap_elsewhere(run)
    removed = sharedmemory.remove(run.leftovers, segments | in_use)
    remove_scratch(run.scratch)
    run.services.unlink(missing_ok=True)
    registry.ended(run.id)
    return Swept(tuple(ended), tuple(removed), sum(reaped.as_dict().values()) + elsewhere, not_asked)


def reap_elsewhere(run: RunDir) -> tuple[int, str]:
    """How many containers or pods of the run were removed, and why they could not be asked for. The trials environment does it: the
    clients of engines and clusters are there."""
    resolved = read_json(run.resolved)
    if resolved is None:
        return 0, ""
    agent, python = resolved["config"]["harbor_agent"], Path(resolved["config"]["environment"]["trials_venv_path"]) / "bin" / "python"
    named = agent["environment_import_path"] or agent["environment_type"] or ""
    if kind_of(named) not in ("docker", "kubernetes") or not python.exists():
        return 0, ""
    where = {"DOCKER_HOST": agent["docker_host"]} if agent["docker_host"] else {}
    command = [str(python), "-P", "-m", "swerl.trials.reap", "--run-dir", str(run.root)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=REAP_S, env={**os.environ, **where})
    except subprocess.TimeoutExpired:
        return 0, f"no answer within {REAP_S:.0f} s"
    return (int(done.stdout), "") if done.returncode == 0 else (0, done.stderr.strip()[-300:])


def sandboxes_of(run: RunDir) -> Path:
    """Where the last start of the run had its sandboxes."""
    resolved = read_json(run.resolved)
    return run.sandboxes if resolved is None else Path(resolved["config"]["harbor_runtime"]["sandbox"]["work_dir"])


def remove_scratch(scratch: Path) -> None:
    """Remove the run's private directory under /tmp, if it is ours."""
    try:
        found = scratch.lstat()
    except FileNotFoundError:
        return
    if found.st_uid == os.geteuid() and scratch.is_dir() and not scratch.is_symlink():
        shutil.rmtree(scratch)
