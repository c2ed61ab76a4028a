"""Processes as /proc shows them: who is alive, and which belong to a run.

A process is named by (boot, pid, start time): a pid alone is reused. A run's processes are found by three signs:

* the marks: ``SWERL_RUN_ID=<token>`` in ``/proc/<pid>/environ`` (``SPT_NOENV`` keeps Ray and vLLM from overwriting it with a title);
* the session: a member of a session that a supervisor of this run opened and recorded, unless its own environment says otherwise;
* descent: a child of such a process.

Everything else on the machine is somebody else's.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TOKEN_VARIABLE = "SWERL_RUN_ID"
PROCESS_VARIABLE = "SWERL_PROCESS"
IMAGE_VARIABLE = "SWERL_IMAGE"  # name@digest of the container image, set by the manifests and the compose file
PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class ProcessRef:
    """One process, for ever: ``start_ticks`` is field 22 of ``/proc/<pid>/stat`` (clock ticks since ``boot``)."""

    pid: int
    start_ticks: int
    boot: str

    def alive(self) -> bool:
        """True while this very process runs. A zombie is dead: nothing of it is left but its exit status."""
        seen = look(self.pid)
        return seen is not None and seen.ref == self and seen.state not in "ZX"


@dataclass(frozen=True, slots=True)
class Seen:
    """One look at a process. ``state`` is the kernel's letter; ``command`` the executable's name as the kernel keeps it."""

    ref: ProcessRef
    command: str
    state: str
    parent: int
    session: int

    @property
    def pid(self) -> int:
        return self.ref.pid


@cache
def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def look(pid: int) -> Seen | None:
    """What ``pid`` is now, or None."""
    try:
        text = (PROC / str(pid) / "stat").read_bytes().decode("utf-8", "replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    head, _, tail = text.rpartition(")")
    fields = tail.split()
    return Seen(
        ref=ProcessRef(pid, int(fields[19]), boot_id()),
        command=head.partition("(")[2],
        state=fields[0],
        parent=int(fields[1]),
        session=int(fields[3]),
    )


def this_process() -> ProcessRef:
    seen = look(os.getpid())
    assert seen is not None, "/proc is not mounted"
    return seen.ref


def every_process() -> Iterator[Seen]:
    for entry in PROC.iterdir():
        if entry.name.isdecimal() and (seen := look(int(entry.name))) is not None:
            yield seen


def environment_of(pid: int) -> dict[str, str] | None:
    """The environment ``pid`` was started with; None when it cannot be read, is gone, or was overwritten by a process title."""
    try:
        raw = (PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return None
    pairs = dict(entry.decode("utf-8", "replace").split("=", 1) for entry in raw.split(b"\0") if b"=" in entry)
    return pairs or None


def owned_processes(marks: Mapping[str, str], sessions: Collection[ProcessRef], keep: Collection[int] = ()) -> list[Seen]:
    """The living processes that carry all ``marks`` in their environment, or belong by session or descent; oldest first. ``sessions``
    are recorded session leaders; pids in ``keep`` (the asking process) are never among them, though their children may be."""
    everyone = {seen.pid: seen for seen in every_process()}
    mine: dict[int, Seen] = {}
    for seen in everyone.values():
        if seen.pid not in keep and seen.state not in "ZX" and _belongs(seen, marks, sessions, everyone):
            mine[seen.pid] = seen
    grew = True
    while grew:
        grew = False
        for seen in everyone.values():
            if seen.parent in mine and seen.pid not in mine and seen.pid not in keep and seen.state not in "ZX":
                mine[seen.pid] = seen
                grew = True
    return sorted(mine.values(), key=lambda seen: seen.ref.start_ticks)


def _belongs(seen: Seen, marks: Mapping[str, str], sessions: Collection[ProcessRef], everyone: dict[int, Seen]) -> bool:
    environment = environment_of(seen.pid)
    if environment is not None:
        return marks.items() <= environment.items()
    for leader in sessions:
        if seen.session == leader.pid and leader.boot == boot_id() and seen.ref.start_ticks >= leader.start_ticks:
            found = everyone.get(leader.pid)
            return found is None or found.ref == leader
    return False


def end_processes(find: Callable[[], list[Seen]], *, grace_s: float, patience_s: float = 10.0) -> tuple[list[Seen], list[Seen]]:
    """Terminate the processes ``find()`` names, kill what is left after ``grace_s``, and look again until it names none: a dying parent may
    still start children. Returns (ended, still there after ``patience_s`` more: stuck in the kernel, or another user's)."""
    met: dict[ProcessRef, Seen] = {}
    kill_at = time.monotonic() + grace_s
    while found := find():
        now = time.monotonic()
        if now >= kill_at + patience_s:
            return [seen for ref, seen in met.items() if not ref.alive()], found
        for seen in found:
            if now >= kill_at:
                send(seen.ref, signal.SIGKILL)
            elif seen.ref not in met:
                send(seen.ref, signal.SIGTERM)
            met[seen.ref] = seen
        time.sleep(0.05)
    return list(met.values()), []


def send(ref: ProcessRef, signum: int) -> None:
    """Signal exactly this process. Its pid may be reused between look and kill, so the signal goes by a handle opened before the look."""
    try:
        handle = os.pidfd_open(ref.pid)
    except ProcessLookupError:
        return
    try:
        if ref.alive():
            signal.pidfd_send_signal(handle, signum)
    except ProcessLookupError:
        return
    finally:
        os.close(handle)
