"""Files in and out of a sandbox as a stream of entries that no link can redirect. The sandbox's end of it is in `inside`.

An entry is: kind u8 (`d` directory, `f` file, `l` link, `x` gone) | mode u32 | size u64 | name length u16 | name | body (size bytes; for a
link its target). Names are relative. What comes out of a sandbox is untrusted: `Unpacker` raises on absolute names, ".." and anything that
would be written through a link, leaves out (and lists in `refused`) links that point outside the target, and clears set-id bits. What goes
in (`pack`) is trusted and keeps its links as links.
"""

from __future__ import annotations

import os
import stat
import struct
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

_HEAD = struct.Struct("<cIQH")
_CHUNK = 1 << 16
_DEEPEST = 100  # directories below each other; deeper trees break the tools that clean up after us
_KNOWN = 0o1000000  # in an entry's mode: the sandbox's baseline knew the name


class UnsafeEntry(ValueError):
    """An entry from a sandbox that would leave the directory it is written to."""


def _head(kind: bytes, mode: int, size: int, name: str, known: bool = False) -> bytes:
    raw = name.encode(errors="surrogateescape")
    return _HEAD.pack(kind, mode & 0o777 | (_KNOWN if known else 0), size, len(raw)) + raw


def pack(source: Path) -> Iterator[bytes]:
    """A directory's contents (the directory's own mode included), or one file, as entries in byte chunks of at most 64 KiB and a head."""
    if source.is_dir():
        yield _head(b"d", source.stat().st_mode | 0o700, 0, ".")
        yield from _pack_dir(source, "")
    else:
        yield from _pack_file(source, source.name)


def _pack_dir(directory: Path, prefix: str) -> Iterator[bytes]:
    with os.scandir(directory) as scan:
        entries = sorted(scan, key=lambda entry: entry.name)
    for entry in entries:
        name = prefix + entry.name
        if entry.is_symlink():
            target = str(Path(entry.path).readlink()).encode(errors="surrogateescape")
            yield _head(b"l", 0o777, len(target), name) + target
        elif entry.is_dir():
            yield _head(b"d", entry.stat().st_mode | 0o700, 0, name)
            yield from _pack_dir(Path(entry.path), name + "/")
        elif entry.is_file():
            yield from _pack_file(Path(entry.path), name)


def _pack_file(path: Path, name: str) -> Iterator[bytes]:
    with path.open("rb") as file:
        info = os.fstat(file.fileno())
        # Readable inside: the sandbox's root is an ordinary user on the host and has no right to override modes.
        yield _head(b"f", info.st_mode | 0o400, info.st_size, name)
        left = info.st_size
        while left:
            data = file.read(min(left, _CHUNK))
            if not data:
                raise OSError(f"{path} shrank while it was sent")
            left -= len(data)
            yield data


def from_tar(archive: tarfile.TarFile, known: Callable[[str], bool] = lambda _: False) -> Iterator[bytes]:
    """An archive that came out of a sandbox, as a stream for `Unpacker`. A second name of a file becomes a file; what is neither file, link
    nor directory carries nothing and is left out. UnsafeEntry for an archive that is not whole."""
    try:
        for member in archive:
            name = member.name.removeprefix("./")
            if member.isdir() and name not in (".", ""):
                yield _head(b"d", member.mode, 0, name, known(name))
            elif member.issym():
                target = member.linkname.encode(errors="surrogateescape")
                yield _head(b"l", 0o777, len(target), name, known(name)) + target
            elif member.isreg() or member.islnk():
                body = archive.extractfile(member)
                assert body is not None
                size = body.seek(0, 2)
                body.seek(0)
                yield _head(b"f", member.mode, size, name, known(name))
                while data := body.read(_CHUNK):
                    yield data
    except (tarfile.TarError, KeyError, EOFError) as error:
        raise UnsafeEntry(f"the archive is not whole: {error}") from error


@dataclass(frozen=True, slots=True)
class Received:
    """What a stream held: names written, those of them that the baseline knew, names reported gone, and links left out because they point
    outside (``name -> target``)."""

    written: tuple[str, ...]
    known: tuple[str, ...]
    gone: tuple[str, ...]
    refused: tuple[str, ...]


class Unpacker:
    """Writes a sandbox's stream below ``target``, or (``single``) to the file ``target``. ``feed`` raises UnsafeEntry and OSError."""

    def __init__(self, target: Path, single: bool):
        self._rename = target.name if single else None
        root = target.parent if single else target
        root.mkdir(parents=True, exist_ok=True)
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        self._buffer = bytearray()
        self._file: int | None = None
        self._left = 0
        self._written: list[str] = []
        self._known: list[str] = []
        self._gone: list[str] = []
        self._refused: list[str] = []

    def feed(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        while True:
            if self._file is not None:
                written = os.write(self._file, memoryview(buffer)[: self._left].tobytes()) if buffer and self._left else 0
                del buffer[:written]
                self._left -= written
                if self._left:
                    if not buffer:
                        return
                    continue
                os.close(self._file)
                self._file = None
            if len(buffer) < _HEAD.size:
                return
            kind, mode, size, name_len = _HEAD.unpack_from(buffer)
            end = _HEAD.size + name_len
            whole = end + size if kind == b"l" else end
            if kind == b"l" and size > 4096:
                raise UnsafeEntry("a link target longer than a path")
            if len(buffer) < whole:
                return
            name = bytes(buffer[_HEAD.size : end]).decode(errors="surrogateescape")
            link = bytes(buffer[end:whole]).decode(errors="surrogateescape")
            del buffer[:whole]
            self._entry(kind, mode, size, self._rename or name, link)

    def close(self) -> Received:
        """Ends the stream. ValueError when it stopped inside an entry."""
        torn = self._file is not None or bool(self._buffer)
        self.abort()
        if torn:
            raise ValueError("the stream from the sandbox ended inside an entry")
        return Received(tuple(self._written), tuple(self._known), tuple(self._gone), tuple(self._refused))

    def abort(self) -> None:
        for fd in (self._file, self._root):
            if fd is not None and fd >= 0:
                os.close(fd)
        self._file, self._root = None, -1

    def _entry(self, kind: bytes, mode: int, size: int, name: str, link: str) -> None:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name or len(path.parts) > _DEEPEST:
            raise UnsafeEntry(f"refused name {name[:200]!r}")
        if kind == b"x":
            self._gone.append(name)
            return
        parent = self._open_parents(path.parts[:-1])
        try:
            if kind == b"d":
                os.close(_child_dir(parent, path.name))
            elif kind == b"f":
                _remove(parent, path.name)
                self._file = os.open(path.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=parent)
                os.fchmod(self._file, (mode & 0o777) | 0o600)
                self._left = size
            elif kind == b"l":
                if _leaves(path, link):
                    self._refused.append(f"{name} -> {link}")
                    return
                _remove(parent, path.name)
                os.symlink(link, path.name, dir_fd=parent)
            else:
                raise UnsafeEntry(f"unknown entry kind {kind!r}")
            self._written.append(name)
            if mode & _KNOWN:
                self._known.append(name)
        finally:
            os.close(parent)

    def _open_parents(self, parts: tuple[str, ...]) -> int:
        fd = os.dup(self._root)
        for part in parts:
            below = _child_dir(fd, part)
            os.close(fd)
            fd = below
        return fd


def unpack(archive: BinaryIO, target: Path) -> Received:
    """Write a tar file that came out of a sandbox below ``target``. UnsafeEntry, tarfile.TarError or ValueError when it is not whole or
    leads outside."""
    unpacker = Unpacker(target, single=False)
    try:
        with tarfile.open(fileobj=archive) as tar:
            for chunk in from_tar(tar):
                unpacker.feed(chunk)
        return unpacker.close()
    finally:
        unpacker.abort()


def _leaves(path: PurePosixPath, link: str) -> bool:
    """A link stays inside if it is relative and never above the root on its way, whatever else exists there."""
    if link.startswith("/") or not link:
        return True
    depth = len(path.parts) - 1
    for part in PurePosixPath(link).parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            return True
    return False


def _child_dir(parent: int, name: str) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    try:
        return os.open(name, flags, dir_fd=parent)
    except FileNotFoundError:
        os.mkdir(name, 0o755, dir_fd=parent)
        return os.open(name, flags, dir_fd=parent)
    except OSError as error:  # a link or a file where a directory belongs
        raise UnsafeEntry(f"{name!r} is written through something that is not a directory") from error


def _remove(parent: int, name: str) -> None:
    try:
        if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            raise UnsafeEntry(f"{name!r} would replace a directory")
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        return
