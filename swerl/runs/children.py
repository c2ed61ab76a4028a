"""Starting and reaping the processes of a run.

Each child leads its own session, carries the run's token, writes to its own log, and is told to end when the supervisor dies. The
supervisor is a child subreaper: descendants that lose their parent become its children, so none of them can hide behind process 1.
Other threads of the supervisor wait for programs of their own, so nobody here waits for a process without knowing whose it is.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from dataclasses import dataclass, field
from typing import IO

from swerl.record.process import PROCESS_VARIABLE, ProcessRef, every_process, look
from swerl.runs.plan import ProcessSpec

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
ORPHAN_S = 300.0  # a process that nobody has collected for so long had no one to do it; no thread here waits longer for a program
_LOOK_S = 5.0

_libc = ctypes.CDLL(None, use_errno=True)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends."""
    if _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


@dataclass(slots=True)
class Child:
    """A started process. ``status`` is None while it runs, then its exit code, negative for a signal."""

    spec: ProcessSpec
    ref: ProcessRef
    log_offset: int
    status: int | None = None
    _popen: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        return self.spec.name


class Children:
    """The living children of one supervisor. ``reap`` collects these, and adopted orphans once they are known to be such."""

    def __init__(self, environment: dict[str, str]):
        self._environment = environment
        self._by_pid: dict[int, Child] = {}
        self._dead: dict[ProcessRef, float] = {}  # children of this process that are not of the run, and since when they are dead
        self._looked = 0.0

    def start(self, spec: ProcessSpec) -> Child:
        """Start ``spec``. Raises OSError when there is no such program."""
        spec.log.parent.mkdir(parents=True, exist_ok=True)
        with spec.log.open("ab") as log:
            offset = log.tell()
            popen = self._spawn(spec, log)
        seen = look(popen.pid)
        assert seen is not None, "an unreaped child has an entry in /proc"
        child = Child(spec, seen.ref, offset, _popen=popen)
        self._by_pid[popen.pid] = child
        return child

    def _spawn(self, spec: ProcessSpec, log: IO[bytes]) -> subprocess.Popen[bytes]:
        supervisor = os.getpid()
        environment = {**os.environ, **self._environment, **spec.env, PROCESS_VARIABLE: spec.name}

        def in_child() -> None:
            _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
            if os.getppid() != supervisor:  # it died between fork and prctl, and nobody will tell this child any more
                os._exit(1)

        return subprocess.Popen(
            spec.argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={name: value for name, value in environment.items() if value is not None},
            cwd=spec.cwd,
            start_new_session=True,
            preexec_fn=in_child,  # takes no lock that another thread of the supervisor could hold at the fork
        )

    def reap(self) -> list[Child]:
        """Children that ended since the last call, with their status."""
        ended = []
        for child in self.living():
            assert child._popen is not None
            if (status := child._popen.poll()) is not None:
                child.status = status
                ended.append(self._by_pid.pop(child.ref.pid))
        if time.monotonic() - self._looked >= _LOOK_S:
            self._looked = time.monotonic()
            self._collect_orphans(self._looked)
        return ended

    def _collect_orphans(self, now: float) -> None:
        me = os.getpid()
        dead = {seen.ref for seen in every_process() if seen.parent == me and seen.state == "Z" and seen.pid not in self._by_pid}
        self._dead = {ref: self._dead.get(ref, now) for ref in dead}
        for ref, since in self._dead.items():
            if now - since >= ORPHAN_S:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(ref.pid, os.WNOHANG)

    def living(self) -> list[Child]:
        return list(self._by_pid.values())


def describe_status(status: int) -> str:
    if status >= 0:
        return f"exit code {status}"
    name = signal.Signals(-status).name
    hint = " (out of memory, or killed by hand)" if -status == signal.SIGKILL else ""
    return f"killed by {name}{hint}"
