"""Reading what a sandbox may have written: plain files below a directory of the run, cut to a size, never through a link."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

LIMIT_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Text:
    """``cut``: the file is longer than what was read."""

    text: str
    bytes: int
    cut: bool


def read_text(root: Path, *parts: str, limit: int = LIMIT_BYTES) -> Text | None:
    """The beginning of the file ``root/parts``; None when there is none, when it is no plain file, or a part of the way is a link."""
    path = root
    for part in parts:
        if part in ("", ".", "..") or "/" in part or "\0" in part:
            return None
        path = path / part
        try:
            mode = path.lstat().st_mode
        except OSError:
            return None
        if stat.S_ISLNK(mode):
            return None
    if not stat.S_ISREG(mode):
        return None
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        size = os.fstat(fd).st_size
        return Text(file.read(limit).decode("utf-8", "replace"), size, size > limit)


def plain_files(root: Path, most: int = 200) -> Iterator[tuple[str, ...]]:
    """Parts of the plain files below ``root``, sorted, links neither listed nor followed."""
    found = 0
    for directory, names, files in os.walk(root, followlinks=False):
        names.sort()
        for name in sorted(files):
            path = Path(directory) / name
            if path.is_symlink() or not path.is_file():
                continue
            yield path.relative_to(root).parts
            found += 1
            if found >= most:
                return
