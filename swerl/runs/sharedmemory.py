"""Segments in /dev/shm: which ones the processes of a run use, and removing them when the run is gone.

Names such as ``psm_1a2b3c4d`` say nothing about their owner, so owners are asked while they live: a segment is a run's when a process of
the run has it mapped or open. What is seen is written to the run directory (name and inode), so that it can be removed after a
``kill -9`` of everything. A segment that any living process still uses is never removed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

from swerl.record.process import PROC, every_process
from swerl.record.rundir import read_json, write_json

SHM = Path("/dev/shm")
_MAPPED = re.compile(rb"^\S+ \S+ \S+ \S+ (\d+) +/dev/shm/", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Segment:
    """A file in /dev/shm. The inode tells it from a later file of the same name."""

    name: str
    inode: int


class NewSegments:
    """Tells when a name has appeared in /dev/shm, which is the moment to ask who uses it."""

    def __init__(self) -> None:
        self._names: set[str] = set()

    def appeared(self) -> bool:
        names = {path.name for path in SHM.iterdir()}
        new = not names <= self._names
        self._names = names
        return new


def in_use(pids: Iterable[int]) -> set[Segment]:
    """Segments that the processes have mapped or open, and that have a name now. Known by inode: a named semaphore is mapped under the
    temporary name it was made with, which is gone."""
    inodes: set[int] = set()
    for pid in pids:
        try:
            inodes.update(map(int, _MAPPED.findall((PROC / str(pid) / "maps").read_bytes())))
            for entry in (PROC / str(pid) / "fd").iterdir():
                if str(entry.readlink()).startswith(f"{SHM}/"):
                    inodes.add(entry.stat().st_ino)
        except OSError:
            continue  # it ended while being looked at, or is another user's: then its segments are not the run's
    return {segment for segment in _named() if segment.inode in inodes}


def _named() -> Iterator[Segment]:
    for path in SHM.iterdir():
        try:
            yield Segment(path.name, path.lstat().st_ino)
        except FileNotFoundError:
            continue


def remember(record: Path, segments: set[Segment]) -> None:
    """Add to the record, if there is anything new."""
    known = recall(record)
    if not segments <= known:
        write_json(record, sorted([segment.name, segment.inode] for segment in segments | known))


def recall(record: Path) -> set[Segment]:
    return {Segment(name, inode) for name, inode in read_json(record) or []}


def remove(record: Path, seen: AbstractSet[Segment] = frozenset()) -> list[str]:
    """Remove the segments that are recorded or were ``seen``, exist and are used by nobody; the record goes last. Returns their names."""
    recorded = {segment for segment in recall(record) | seen if _exists(segment)}
    removed = []
    if recorded:
        still_used = in_use(seen.pid for seen in every_process())
        for segment in sorted(recorded - still_used, key=lambda segment: segment.name):
            (SHM / segment.name).unlink(missing_ok=True)
            removed.append(segment.name)
    record.unlink(missing_ok=True)
    return removed


def _exists(segment: Segment) -> bool:
    try:
        return (SHM / segment.name).stat().st_ino == segment.inode
    except FileNotFoundError:
        return False
