"""What came out of a sandbox, on the host: how much of it there may be, and the only way in which its files are opened.

A received tree holds directories and regular files of ours and nothing else: `tree.Unpacker` writes no link, so that no name in it leads
anywhere. Links that a sandbox offers are data (`Received.links`); a sandbox of ours can be given them again, the host never has them.
`read_file` and its siblings do not rely on that: they open one component after the other, follow no link at any of them, and take nothing
but a regular file on the tree's own device, of a size that was asked for. They block, briefly: call them in a thread.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_OPEN_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_STEPS = 200  # of a link's target
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Bounds:
    """Ceilings of one transfer out of a sandbox. ``name_bytes`` is the longest path, ``depth`` counts directories below each other."""

    total_bytes: int = 64 << 20
    file_bytes: int = 64 << 20
    entries: int = 16_384
    depth: int = 100
    name_bytes: int = 2048
    links: int = 2048


USUAL = Bounds()


@dataclass(frozen=True, slots=True)
class Received:
    """What a stream held. ``written``: names of files and directories on the host and of ``links``; ``known``: those of them that the
    baseline knew; ``gone``: names reported gone; ``links``: (name, target) of links that stay inside; ``refused``: ``name -> target``
    of those that do not; ``left_out``: names of what was over a bound, where the transfer may be cut."""

    written: tuple[str, ...]
    known: tuple[str, ...]
    gone: tuple[str, ...]
    refused: tuple[str, ...]
    links: tuple[tuple[str, str], ...] = ()
    left_out: tuple[str, ...] = ()


def inside(links: dict[str, str]) -> dict[str, str]:
    """Those of ``links`` (name -> target) that stay below the root: relative, never above it, and through no other of them on the way,
    since a link that goes up makes the text of the next one mean something else. The last component may be a link that stays itself."""
    return {name: target for name, target in links.items() if _stays(name, target, links)}


def _stays(name: str, target: str, links: dict[str, str]) -> bool:
    steps = target.split("/")
    if not target or target.startswith("/") or "\0" in target or len(steps) > _STEPS:
        return False
    at = list(PurePosixPath(name).parts[:-1])
    for number, step in enumerate(steps, 1):
        if step == "..":
            if not at:
                return False
            at.pop()
        elif step not in ("", "."):
            at.append(step)
            if number < len(steps) and "/".join(at) in links:
                return False
    return True


def printable(name: str) -> str:
    """A name or text of a sandbox's for records and screens: valid Unicode without control characters, different for different names."""
    return "".join(c if c.isprintable() and c != "\\" else _escaped(c) for c in name)


def _escaped(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return char.encode("unicode_escape").decode() if code < 0x80 else f"\\U{code:08x}"


def read_file(root: Path, name: str, limit_bytes: int) -> bytes | None:
    """The regular file ``name`` below ``root``; None for what is none, is reached through a link, or is larger than the limit."""
    try:
        fd = _open(root, _parts(name))
    except OSError:
        return None
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or info.st_dev != root.stat().st_dev or info.st_size > limit_bytes:
            return None
        with os.fdopen(os.dup(fd), "rb") as file:
            data = file.read(limit_bytes + 1)
        return data if len(data) <= limit_bytes else None
    finally:
        os.close(fd)


def files(root: Path) -> Iterator[tuple[str, int]]:
    """(name, size) of every regular file below ``root``, in order of their names; links are not followed and not listed."""
    for directory, below, names, fd in os.fwalk(root):
        below.sort()
        prefix = PurePosixPath(os.path.relpath(directory, root))
        for name in sorted(names):
            info = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if stat.S_ISREG(info.st_mode):
                yield str(prefix / name), info.st_size


def remove(root: Path, names: Iterable[str]) -> None:
    """Remove files and directories below ``root``; what is not there, or is reached through a link, stays as it is."""
    for name in names:
        try:
            *above, last = _parts(name)
            parent = _open(root, tuple(above), directory=True)
        except OSError:
            continue
        try:
            if stat.S_ISDIR(os.stat(last, dir_fd=parent, follow_symlinks=False).st_mode):
                shutil.rmtree(last, dir_fd=parent)
            else:
                os.unlink(last, dir_fd=parent)
        except FileNotFoundError:
            continue
        finally:
            os.close(parent)


def _parts(name: str) -> tuple[str, ...]:
    """FileNotFoundError for what is no name below a tree."""
    parts = PurePosixPath(name).parts
    if not parts or any(part in ("..", "/") or "\0" in part for part in parts):
        raise FileNotFoundError(f"no name below a received tree: {name!r}")
    return parts


def _open(root: Path, parts: tuple[str, ...], directory: bool = False) -> int:
    """A descriptor of what is there, each component opened below the one before it. OSError for a link."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for at, part in enumerate(parts, 1):
        try:
            below = os.open(part, _OPEN_FILE if at == len(parts) and not directory else _OPEN_DIR, dir_fd=fd)
        finally:
            os.close(fd)
        fd = below
    return fd
