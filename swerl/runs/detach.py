"""A run that goes on without the terminal that started it.

The same command is started again as leader of a session of its own, without a controlling terminal, so that neither a closed shell nor a
lost connection reaches it; it prints to ``RunDir.console``. What started it stays until the run is supervised or has been refused.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from swerl.record.registry import Registry
from swerl.record.rundir import RunDir
from swerl.record.states import LIVE

LOOK_S = 0.2


@dataclass(frozen=True, slots=True)
class Detached:
    """``code`` is None where the run is supervised by ``pid`` now, else what the command ended with."""

    pid: int
    code: int | None


def detach(argv: Sequence[str], run: RunDir, say: Callable[[str], None]) -> Detached:
    """Start ``argv`` for good. Its lines are handed to ``say`` until it supervises the run or ends."""
    run.console.parent.mkdir(parents=True, exist_ok=True)
    with run.console.open("ab") as console:
        offset = console.tell()
        child = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    while True:
        code = child.poll()
        offset = _tell(run, offset, say)
        if code is not None:
            return Detached(child.pid, code)
        if _supervised_by(run, child.pid):
            return Detached(child.pid, None)
        time.sleep(LOOK_S)


def _tell(run: RunDir, offset: int, say: Callable[[str], None]) -> int:
    """Whole lines from ``offset`` on; returns where they end."""
    with run.console.open("rb") as file:
        file.seek(offset)
        text = file.read()
    whole = text[: text.rfind(b"\n") + 1]
    for line in whole.decode("utf-8", "replace").splitlines():
        say(line)
    return offset + len(whole)


def _supervised_by(run: RunDir, pid: int) -> bool:
    if not run.registry.exists():
        return False
    registry = Registry(run.registry)
    try:
        row = registry.get(run.id)
    finally:
        registry.close()
    return row is not None and row.state in LIVE and row.supervisor is not None and row.supervisor.pid == pid
