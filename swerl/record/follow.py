"""Whole lines of growing files, from where the last reading ended.

A place in a file is (inode, offset). A file that was replaced (another inode) or became shorter is read again from its start, and says so.
A line that is not whole yet stays for the next reading. A line over ``MAX_LINE_BYTES`` is passed over: no writer of a run makes one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CHUNK_BYTES = 8 << 20
MAX_LINE_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class Place:
    """How far a file has been read. ``passed_over`` lines were too long."""

    inode: int = 0
    offset: int = 0
    passed_over: int = 0


@dataclass(frozen=True, slots=True)
class Read:
    """One piece of a file: whole lines without their ends, and the place after them. ``anew``: what was read before no longer counts."""

    lines: list[bytes]
    place: Place
    anew: bool


def place_at_end(path: Path) -> Place:
    """The place of who wants only what comes from now on: after the last whole line."""
    place = Place()
    for piece in read(path, place):
        place = piece.place
    return place


def grown(path: Path, place: Place) -> bool:
    """Whether reading from ``place`` could give anything."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    return found.st_ino != place.inode or found.st_size != place.offset


def read(path: Path, place: Place, chunk_bytes: int = CHUNK_BYTES) -> Iterator[Read]:
    """Pieces of at most about ``chunk_bytes`` until the end of the file; nothing when the file does not exist or has not changed."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        found = os.fstat(file.fileno())
        anew = place.inode != 0 and (found.st_ino != place.inode or found.st_size < place.offset)
        offset = 0 if anew or place.inode == 0 else place.offset
        passed_over = 0 if anew else place.passed_over
        file.seek(offset)
        rest, skipping = b"", False
        while data := file.read(chunk_bytes):
            data = rest + data
            end = data.rfind(b"\n") + 1
            rest = data[end:]
            lines = data[:end].split(b"\n")[:-1]
            if skipping and lines:
                del lines[0]
                skipping = False
            if len(rest) > MAX_LINE_BYTES:
                offset += len(rest)
                rest, skipping, passed_over = b"", True, passed_over + 1
            offset += end
            if lines or anew:
                yield Read(lines, Place(found.st_ino, offset, passed_over), anew)
                anew = False
        if anew:
            yield Read([], Place(found.st_ino, offset, passed_over), anew)
