"""One append-only file per session: everything needed to serve the session again after a kill, and to give its recording.

A line is one JSON object with a kind ``k``:

* ``open``  session, trial, sampling, seed, max_turns, time
* ``ctx``   id, parent, key, tokens, copy_of, signature, tools, covers
* ``turn``  id, parent, tokens, logprobs, versions, answer, probe, cached, hold_s, time — synced to disk before the client sees the end
* ``seen``  turn: a client has read the answer
* ``mark``  overflow / max_turns / rerendered, once each
* ``close`` reason, hold_s, aborted

A line is whole or absent: a torn last line of a killed writer is cut off when the file is opened again. The session's id names the file, so
a session is found without an index and read only when it is asked for.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import orjson

from swerl.runs.rundir import fsync_directory


class Journal:
    """The one writer of a session's file; the session's lock serialises commits. The file is open only while it is written, so that
    thousands of idle sessions need no descriptors."""

    def __init__(self, path: Path, executor: Executor):
        self.path, self._executor, self._in_directory = path, executor, path.exists()

    def write(self, *records: Mapping[str, Any]) -> None:
        """In the file, and safe from a kill of this process; not yet from a crash of the machine. Raises OSError (disk full) with the file
        as it was."""
        self._append(_lines(records), sync=False)

    async def commit(self, *records: Mapping[str, Any]) -> None:
        """On disk when it returns."""
        await asyncio.get_running_loop().run_in_executor(self._executor, self._append, _lines(records), True)

    def _append(self, data: bytes, sync: bool) -> None:
        fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            before = os.fstat(fd).st_size
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view) :]
                if sync:
                    os.fdatasync(fd)
            except OSError:
                os.ftruncate(fd, before)
                raise
        finally:
            os.close(fd)
        if sync and not self._in_directory:
            fsync_directory(self.path.parent)
            self._in_directory = True


def _lines(records: Sequence[Mapping[str, Any]]) -> bytes:
    return b"".join(orjson.dumps(r) + b"\n" for r in records)


def journal_path(directory: Path, session_id: str) -> Path:
    return directory / f"{session_id}.jsonl"


def read_journal(path: Path) -> Iterator[dict[str, Any]]:
    """Whole lines, oldest first. A torn last line is cut off the file: nobody has been told what it said."""
    data = path.read_bytes()
    end = data.rfind(b"\n") + 1
    if end != len(data):
        os.truncate(path, end)
    for line in data[:end].splitlines():
        yield orjson.loads(line)
