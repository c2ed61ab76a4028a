"""One append-only file per session: everything needed to serve the session again after a kill, and to give its recording.

A line is one JSON object with a kind ``k``:

* ``open``  session, trial, sampling, seed, max_turns, time
* ``ctx``   id, parent, key, tokens, copy_of, signature, tools, covers
* ``turn``  id, parent, tokens, logprobs, versions, answer, probe, cached, hold_s, model_s,
  time — synced to disk before the client sees the end
* ``seen``  turn: a client has read the answer
* ``mark``  overflow / max_turns / rerendered, once each
* ``unanswered`` places of requests that failed by us and have no answer yet; the newest line counts
* ``hold``  hold_s: written when an idle session leaves the memory
* ``close`` reason, hold_s, aborted

A line is whole or absent: a torn last line of a killed writer is cut off when the file is opened again. The session's id names the file, so
a session is found without an index and read only when it is asked for.
"""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from swerl.record.ledger import append, every, line_of
from swerl.record.rundir import fsync_directory


class OpenFiles:
    """Append descriptors of the files written lately: thousands of idle sessions must not need one each. Safe to use from threads."""

    def __init__(self, capacity: int = 512):
        self._capacity = capacity
        self._files: OrderedDict[Path, _File] = OrderedDict()
        self._lock = Lock()

    @contextmanager
    def appending(self, path: Path) -> Iterator[int]:
        with self._lock:
            if (file := self._files.get(path)) is None:
                file = self._files[path] = _File(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600))
            self._files.move_to_end(path)
            file.users += 1
            self._close_oldest()
        try:
            yield file.fd
        finally:
            with self._lock:
                file.users -= 1

    def close(self, path: Path) -> None:
        with self._lock:
            if (file := self._files.get(path)) is not None and file.users == 0:
                os.close(self._files.pop(path).fd)

    def close_all(self) -> None:
        with self._lock:
            for file in self._files.values():
                os.close(file.fd)
            self._files.clear()

    def _close_oldest(self) -> None:
        idle = [path for path, file in self._files.items() if file.users == 0] if len(self._files) > self._capacity else []
        for path in idle[: len(self._files) - self._capacity]:
            os.close(self._files.pop(path).fd)


@dataclass(slots=True)
class _File:
    fd: int
    users: int = 0


class Journal:
    """The one writer of a session's file; the session's lock serialises commits."""

    def __init__(self, path: Path, executor: Executor, files: OpenFiles):
        self.path, self._executor, self._files = path, executor, files
        self._whole_lines = Lock()

    def write(self, *records: Mapping[str, Any]) -> None:
        """In the file, and safe from a kill of this process; not yet from a crash of the machine. Raises OSError (disk full) with the file
        as it was."""
        self._append(_lines(records), sync=False)

    async def commit(self, *records: Mapping[str, Any]) -> None:
        """On disk when it returns."""
        await asyncio.get_running_loop().run_in_executor(self._executor, self._append, _lines(records), True)

    async def begin(self, *records: Mapping[str, Any]) -> None:
        """Make the file, so that it is found after a crash of the machine. What it says counts from the first commit."""
        await asyncio.get_running_loop().run_in_executor(self._executor, self._begin, _lines(records))

    def close(self) -> None:
        self._files.close(self.path)

    def _begin(self, data: bytes) -> None:
        self._append(data, sync=False)
        fsync_directory(self.path.parent)

    def _append(self, data: bytes, sync: bool) -> None:
        with self._files.appending(self.path) as fd:
            with self._whole_lines:
                append(fd, data)
            if sync:
                os.fdatasync(fd)


def _lines(records: Sequence[Mapping[str, Any]]) -> bytes:
    return b"".join(line_of(record) for record in records)


def journal_path(directory: Path, session_id: str) -> Path:
    return directory / f"{session_id}.jsonl"


def read_journal(path: Path) -> Iterator[dict[str, Any]]:
    """Whole lines, oldest first; the file is left as it is. A turn without those before it is no turn: a damaged line raises SWERL-R051,
    and a file that is not there FileNotFoundError."""
    path.stat()
    return every(path)


def inherit(path: Path) -> list[dict[str, Any]]:
    """For the writer that goes on with the file: what it says, the torn last line of a killed one cut off, since nobody has been told."""
    data = path.read_bytes()
    end = data.rfind(b"\n") + 1
    if end != len(data):
        os.truncate(path, end)
    return list(read_journal(path))
