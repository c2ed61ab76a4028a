"""Append-only events: what happened, when, to what. Every process writes its own file; readers merge them by time.

A line is one JSON object: ``time`` (seconds since the epoch), ``source`` (process), ``kind`` (dotted name), and optionally
``step``, ``trial`` and fields of the kind. Lines are whole or absent: one ``write`` call each, in append mode.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson


class EventLog:
    """One writer. ``durable=True`` fsyncs that line before returning; use it where a reader's correctness depends on it."""

    def __init__(self, path: Path, source: str):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.source = path, source
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        _end_torn_line(self._fd, path)

    def emit(self, kind: str, *, durable: bool = False, **fields: Any) -> None:
        line = {"time": time.time(), "source": self.source, "kind": kind, **fields}
        os.write(self._fd, orjson.dumps(line, default=str) + b"\n")
        if durable:
            os.fsync(self._fd)

    def close(self) -> None:
        handle, self._fd = self._fd, -1  # a thread that comes too late gets an error, not somebody else's file
        os.close(handle)


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """Yield whole events of one file, oldest first. A torn last line (killed writer) is not an event and is skipped."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n") and line.strip():
                try:
                    yield orjson.loads(line)
                except orjson.JSONDecodeError:
                    continue  # the torn line of an earlier writer, ended by its successor


def _end_torn_line(fd: int, path: Path) -> None:
    """A writer killed inside a line leaves no newline; end it so that the next event starts on its own line."""
    size = path.stat().st_size
    if size:
        with path.open("rb") as file:
            file.seek(size - 1)
            if file.read(1) != b"\n":
                os.write(fd, b"\n")
