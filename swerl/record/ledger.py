"""Append-only files of lines: the one way to write one, and the one way to read one whole. `follow` reads one that grows.

A line is one JSON object. `append` leaves a file with the whole of what it was given, or raises and leaves it as it was: a disk that fills
inside a line cuts nothing in half, and what is written afterwards is not glued to a torn piece. With ``sync`` it is on disk when the call
returns. A kill can still tear the last line: the next writer of the same file ends it, readers pass over it. A reader changes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

import orjson

from swerl.errors import Problem, SwerlError
from swerl.record.follow import Place, read
from swerl.record.rundir import fsync_directory


class Ledger:
    """The one writer of a file. A line that a killed predecessor left torn is ended when it is opened; a new file is in its directory after
    a crash of the machine. Safe to use from threads."""

    def __init__(self, path: Path, mode: int = 0o644):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, mode)
        self._lock = Lock()
        try:
            size = os.fstat(self.fd).st_size
            if size and os.pread(self.fd, 1, size - 1) != b"\n":
                append(self.fd, b"\n")
            if not size:
                fsync_directory(path.parent)
        except BaseException:
            self.close()
            raise

    def append(self, line: Mapping[str, Any], *, sync: bool = False) -> None:
        """One line, whole; on disk when this returns, if ``sync``. Raises OSError with the file as it was."""
        self.add(line_of(line), sync=sync)

    def add(self, data: bytes, *, sync: bool = False) -> None:
        """`append` of whole lines."""
        with self._lock:
            append(self.fd, data, sync=sync)

    def close(self) -> None:
        handle, self.fd = self.fd, -1  # a thread that comes too late gets an error, not somebody else's file
        os.close(handle)


def append(fd: int, data: bytes, *, sync: bool = False) -> None:
    """Add ``data``, whole lines, to a file opened with O_APPEND. Raises OSError (full disk, limit, broken device) with the file as it was.
    Callers that share ``fd`` take turns."""
    rest, written = memoryview(data), 0
    try:
        while rest:
            count = os.write(fd, rest)
            rest, written = rest[count:], written + count
        if sync:
            os.fdatasync(fd)
    except BaseException:
        with suppress(OSError):  # a device that takes no truncation either: the first error is the one to tell
            end = os.lseek(fd, 0, os.SEEK_CUR)  # where the last piece of ours ends
            if written and os.fstat(fd).st_size == end:  # nobody has written after it
                os.ftruncate(fd, end - written)
        raise


def line_of(line: Mapping[str, Any]) -> bytes:
    return orjson.dumps(line) + b"\n"


def objects(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file, oldest first, for readers that can do without one: a line that is none (torn by a kill, damaged) is passed
    over. Nothing where there is no file. Safe while a writer writes."""
    return (value for _, value in _numbered(path) if value is not None)


def every(path: Path) -> Iterator[dict[str, Any]]:
    """As `objects`, for readers that need every line: raises SWERL-R051 at the first that is no object. The last one, where a kill or a
    writer at work has left it without its end, is not there yet."""
    for number, value in _numbered(path):
        if value is None:
            raise SwerlError(damage(path, [number]))
        yield value


def damaged(path: Path) -> list[int]:
    """Numbers of the lines, from 1, that are no object."""
    return [number for number, value in _numbered(path) if value is None]


def damage(path: Path, lines: list[int]) -> Problem:
    return Problem(
        "SWERL-R051",
        f"{len(lines)} line(s) of {path.name} are damaged, the first is line {lines[0]}",
        "restore the file from a copy, or go on without what these lines said; look for a full or failing disk",
        f"{path}:{lines[0]}",
    )


def _numbered(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    before = 0
    for piece in read(path, Place()):
        for number, line in enumerate(piece.lines, before + 1):
            if line.strip():
                yield number, object_of(line)
        before += len(piece.lines)


def object_of(line: bytes) -> dict[str, Any] | None:
    """None for what is no JSON object."""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None
