"""Starting and reaping the processes of a run.

Each child leads its own session, carries the run's token, writes to its own log, and is told to end when the supervisor dies. The
supervisor is a child subreaper: descendants that lose their parent become its children, so none of them can hide behind process 1.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from dataclasses import dataclass, field
from typing import IO

from swerl.record.process import PROCESS_VARIABLE, ProcessRef, look
from swerl.runs.plan import ProcessSpec

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

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
    """The living children of one supervisor. ``reap`` is the only place that waits, so no status is lost to anybody else."""

    def __init__(self, environment: dict[str, str]):
        self._environment = environment
        self._by_pid: dict[int, Child] = {}

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
            preexec_fn=in_child,  # safe: the supervisor has one thread
        )

    def reap(self) -> list[Child]:
        """Children that ended since the last call, with their status. Adopted orphans are collected and forgotten."""
        ended = []
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return ended
            if pid == 0:
                return ended
            child = self._by_pid.pop(pid, None)
            if child is not None:
                child.status = os.waitstatus_to_exitcode(status)
                if child._popen is not None:
                    child._popen.returncode = child.status
                ended.append(child)

    def living(self) -> list[Child]:
        return list(self._by_pid.values())


def describe_status(status: int) -> str:
    if status >= 0:
        return f"exit code {status}"
    name = signal.Signals(-status).name
    hint = " (out of memory, or killed by hand)" if -status == signal.SIGKILL else ""
    return f"killed by {name}{hint}"
