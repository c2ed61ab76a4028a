"""A boot that gets nowhere: noticed by its log, and told with what every process of the trainer does at that moment.

A start says something new now and then: shards, workers, kernels. One that hangs is silent, or repeats itself with other numbers (Ray and
verl count the seconds they wait). So a line counts as news when none like it, numbers apart, was there before. After ``QUIET_S`` without
news there is one event ``boot.silent`` with the last lines of the log and a file of stacks; the watchdog makes an alarm of it (SWERL-W506).
"""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from swerl.record.logs import plain, read_new_lines
from swerl.record.process import PROC, ProcessRef, Seen
from swerl.runs.children import Child

QUIET_S = 150.0
_LOOK_S = 5.0
_DUMP_S = 20.0
_MOST = 16  # processes whose stacks are taken
_LAST_LINES = 8
_NUMBERS = re.compile(r"[0-9a-f]{8,}|\d+")


class BootWatch:
    """``processes`` names those of the trainer; ``emit`` is the event log's, called from a thread."""

    def __init__(self, logs: Path, emit: Callable[..., None], processes: Callable[[], Sequence[Seen]]):
        self._logs, self._emit, self._processes = logs, emit, processes
        self._of: ProcessRef | None = None
        self._offset, self._said = 0, set[str]()
        self._news_at = self._looked = 0.0
        self._told = False

    def attend(self, trainer: Child | None, engine_up: bool, now: float) -> None:
        """To be called often, with ``now`` monotonic; looks every few seconds while ``trainer`` boots."""
        if trainer is None or engine_up or now - self._looked < _LOOK_S:
            return
        self._looked = now
        if self._of != trainer.ref:
            self._of, self._offset, self._said, self._news_at, self._told = trainer.ref, trainer.log_offset, set(), now, False
        lines, self._offset = read_new_lines(trainer.spec.log, self._offset)
        kinds = {_NUMBERS.sub("#", plain(line)) for line in lines}
        if kinds - self._said:
            self._said |= kinds
            self._news_at, self._told = now, False
        elif now - self._news_at >= QUIET_S and not self._told:
            self._told = True
            told = (trainer.spec.log, now - self._news_at, self._processes()[:_MOST])  # asked here: the registry is this thread's
            threading.Thread(target=self._tell, args=told, name="boot-stacks", daemon=True).start()

    def _tell(self, log: Path, quiet_s: float, processes: Sequence[Seen]) -> None:
        tail = [plain(line) for line in log.read_text(errors="replace").splitlines()[-_LAST_LINES:]]
        file = self._logs / f"stacks-{time.strftime('%Y%m%d-%H%M%S')}.txt"
        try:
            file.write_text("\n\n".join(stacks(seen) for seen in processes) + "\n")
            where = str(file)
        except OSError as error:  # no room for it: the alarm itself matters more
            where = f"not written: {error}"
        self._emit("boot.silent", durable=True, quiet_s=round(quiet_s), lines=tail, stacks=where)


def stacks(seen: Seen) -> str:
    """What a process does: py-spy's dump of its Python stacks, or, where that cannot be had, what the kernel says that it waits in."""
    head = f"== {seen.command} (pid {seen.pid}, state {seen.state})"
    try:
        dump = [str(Path(sys.executable).with_name("py-spy")), "dump", "--nonblocking", "--pid", str(seen.pid)]
        done = subprocess.run(dump, capture_output=True, text=True, timeout=_DUMP_S)
        if done.returncode == 0:
            return f"{head}\n{done.stdout.strip()}"
        why = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    except (OSError, subprocess.TimeoutExpired) as error:
        why = str(error)
    try:
        waits = (PROC / str(seen.pid) / "wchan").read_text() or "nothing"
    except OSError:
        waits = "unknown"
    return f"{head}\nwaits in {waits} (no Python stacks: {why})"
