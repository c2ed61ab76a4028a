"""A recorder of what reaches the disk and in which order: a kill cannot show a missing sync, the order of calls can."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True, slots=True)
class Call:
    """``what``: sync, sync directory, or rename. ``path`` is the file's (a rename's target), ``bytes`` its size at that moment."""

    what: str
    path: Path
    bytes: int


def record(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """Every sync and rename from now on, in order."""
    found: list[Call] = []
    fsync, fdatasync, replace = os.fsync, os.fdatasync, os.replace

    def note(fd: int) -> None:
        facts = os.fstat(fd)
        what = "sync directory" if stat.S_ISDIR(facts.st_mode) else "sync"
        found.append(Call(what, Path(f"/proc/self/fd/{fd}").readlink(), 0 if what == "sync directory" else facts.st_size))

    def sync(fd: int) -> None:
        fsync(fd)
        note(fd)

    def sync_data(fd: int) -> None:
        fdatasync(fd)
        note(fd)

    def rename(source: os.PathLike[str], target: os.PathLike[str]) -> None:
        size = Path(source).stat().st_size
        replace(source, target)
        found.append(Call("rename", Path(target), size))

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "fdatasync", sync_data)
    monkeypatch.setattr(os, "replace", rename)
    return found
