"""What a person sees while a run runs: lines that stay, and on a terminal one line that moves. Without a terminal, lines only."""

from __future__ import annotations

import sys
import time
from typing import Protocol, TextIO

from swerl.record.words import duration
from swerl.runs.feed import Progress


class Display(Protocol):
    """Where a supervisor speaks. ``line`` is said once; ``show`` is called several times a second with the present picture."""

    def line(self, text: str) -> None: ...

    def show(self, progress: Progress) -> None: ...

    def close(self) -> None: ...


def open_display(stream: TextIO = sys.stdout) -> Display:
    return TerminalDisplay() if stream.isatty() else PlainDisplay(stream)


class PlainDisplay:
    """Lines with the time since the start; every ``quiet_s`` without one, where the run stands."""

    def __init__(self, stream: TextIO = sys.stdout, quiet_s: float = 30.0):
        self._stream, self._quiet_s = stream, quiet_s
        self._began = self._spoke = time.monotonic()

    def line(self, text: str) -> None:
        self._spoke = time.monotonic()
        self._stream.write(f"[{duration(self._spoke - self._began):>7}] {text}\n")
        self._stream.flush()

    def show(self, progress: Progress) -> None:
        if time.monotonic() - self._spoke >= self._quiet_s:
            self.line(summary(progress))

    def close(self) -> None:
        self._stream.flush()


class TerminalDisplay:
    """The same lines, above one that says what happens now."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(highlight=False)
        self._began = time.monotonic()
        self._status = self._console.status("starting")
        self._status.start()

    def line(self, text: str) -> None:
        self._console.print(f"[{duration(time.monotonic() - self._began):>7}] {text}", markup=False)

    def show(self, progress: Progress) -> None:
        from rich.text import Text

        self._status.update(Text(summary(progress)))

    def close(self) -> None:
        self._status.stop()


def summary(progress: Progress) -> str:
    """Where the run stands, on one line."""
    parts = [progress.phase]
    if progress.trials:
        parts.append(f"{progress.trials}{f' of {progress.expected:,}' if progress.expected else ''} settled")
    parts.append(f"for {duration(time.monotonic() - progress.phase_since)}")
    if progress.at_most_s is not None:
        parts.append(f"of at most {duration(progress.at_most_s)}")
    if (left_s := progress.left_s()) is not None:
        parts.append(f"| about {duration(left_s)} left")
    if progress.step is not None:
        parts.append(f"| step {progress.step}" + (f" of {progress.total_steps} done" if progress.total_steps else " done"))
    if progress.resolve_rate is not None:
        parts.append(f"| resolve rate {progress.resolve_rate:.3f}")
    if rest_s := progress.run_left_s:
        parts.append(f"| about {duration(rest_s)} of the run left")
    return " ".join(parts)
