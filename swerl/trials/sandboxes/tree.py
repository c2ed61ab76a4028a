"""Files in and out of a sandbox as a stream of entries that no link can redirect. The sandbox's end of it is in `inside`.

An entry is: kind u8 (`d` directory, `f` file, `l` link, `x` gone, `o` left out) | mode u32 | size u64 | name length u16 | name | body (size
bytes; for a link its target). Names are relative. What comes out of a sandbox is untrusted: `Unpacker` writes directories and files of its
own making and no link, raises on absolute names and "..", and holds to `Bounds`: what is over one of them ends the transfer, or is left out
and named where the transfer may be cut. What goes in (`pack`) is the host's, with its links as links, and those that came out as data.
"""

from __future__ import annotations

import os
import stat
import struct
import tarfile
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from swerl.trials.sandboxes.received import Bounds, Received, inside

_HEAD = struct.Struct("<cIQH")
_CHUNK = 1 << 16
_KINDS = b"dflxo"
_NAMED = 100  # of what is left out
_KNOWN = 0o1000000  # in an entry's mode: the sandbox's baseline knew the name


class UnsafeEntry(ValueError):
    """An entry from a sandbox that would leave the directory it is written to, or one more than there may be."""


class TornArchive(UnsafeEntry):
    """An archive that ends too early or is none."""


def _head(kind: bytes, mode: int, size: int, name: str, known: bool = False) -> bytes:
    raw = name.encode(errors="surrogateescape")
    return _HEAD.pack(kind, mode & 0o777 | (_KNOWN if known else 0), size, len(raw)) + raw


def pack(source: Path, links: Iterable[tuple[str, str]] = ()) -> Iterator[bytes]:
    """A directory's contents (the directory's own mode included) and ``links`` (name, target) besides, or one file, as entries in byte
    chunks of at most 64 KiB and a head."""
    if source.is_dir():
        yield _head(b"d", source.stat().st_mode | 0o700, 0, ".")
        yield from _pack_dir(source, "")
        for name, link in links:
            target = link.encode(errors="surrogateescape")
            yield _head(b"l", 0o777, len(target), name) + target
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


def from_tar(file: BinaryIO, known: Callable[[str], bool]) -> Iterator[bytes]:
    """An archive that came out of a sandbox, as a stream for `Unpacker`. A second name of a file becomes a file; what is neither file, link
    nor directory carries nothing and is left out. Never a compressed one: a few bytes of that are any number of files. TornArchive."""
    regular: dict[str, tarfile.TarInfo] = {}
    try:
        archive = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115 (the file is the caller's)
        for member in archive:
            name = member.name.removeprefix("./")
            if member.isdir() and name not in (".", ""):
                yield _head(b"d", member.mode, 0, name, known(name))
            elif member.issym():
                target = member.linkname.encode(errors="surrogateescape")
                yield _head(b"l", 0o777, len(target), name, known(name)) + target
            elif member.isreg() or member.islnk():
                # The first name of a second one is looked up here: `extractfile` would follow links of the archive's, in circles too.
                first = regular.get(member.linkname.removeprefix("./")) if member.islnk() else member
                if first is None:
                    continue
                regular[name] = first
                yield _head(b"f", member.mode, first.size, name, known(name))
                body = archive.extractfile(first)
                assert body is not None
                while data := body.read(_CHUNK):
                    yield data
    except (tarfile.TarError, KeyError, ValueError, EOFError, OSError, OverflowError, struct.error) as error:
        raise TornArchive(f"the archive is not whole: {error}") from error


class Unpacker:
    """Writes a sandbox's stream below ``target``, or (``single``) to the file ``target``. ``feed`` raises UnsafeEntry and OSError; with
    ``cut`` what is over a bound is left out instead. Blocks: `feed` and `close` belong into a thread."""

    def __init__(self, target: Path, single: bool, bounds: Bounds = Bounds(), cut: bool = False):
        self._turn = threading.Lock()  # a transfer that is given up ends between two visits to the disk
        self._rename = target.name if single else None
        self._bounds, self._cut = bounds, cut
        root = target.parent if single else target
        root.mkdir(parents=True, exist_ok=True)
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        self._buffer = bytearray()
        self._file: int | None = None
        self._left = self._skip = self._entries = 0
        self._budget = bounds.total_bytes
        self._written: list[str] = []
        self._known: list[str] = []
        self._gone: list[str] = []
        self._links: dict[str, str] = {}
        self._left_out: list[str] = []

    def feed(self, data: bytes) -> None:
        with self._turn:
            if self._root < 0:
                raise ValueError("the transfer was given up")
            self._feed(data)

    def _feed(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        while True:
            if self._skip:
                gone = min(self._skip, len(buffer))
                del buffer[:gone]
                self._skip -= gone
                if self._skip:
                    return
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
        """Ends the stream. ValueError when it stopped inside an entry; where it may be cut, that entry is left out."""
        torn = self._file is not None or bool(self._buffer) or self._skip > 0
        self.abort()
        if torn and not self._cut:
            raise ValueError("the stream from the sandbox ended inside an entry")
        kept = inside(self._links)
        refused = tuple(f"{name} -> {link}" for name, link in self._links.items() if name not in kept)
        written = tuple(name for name in self._written if name not in self._links or name in kept)
        known = tuple(name for name in self._known if name not in self._links or name in kept)
        return Received(written, known, tuple(self._gone), refused, tuple(kept.items()), tuple(self._left_out))

    def abort(self) -> None:
        with self._turn:
            for fd in (self._file, self._root):
                if fd is not None and fd >= 0:
                    os.close(fd)
            self._file, self._root = None, -1

    def _entry(self, kind: bytes, mode: int, size: int, name: str, link: str) -> None:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name or kind not in _KINDS:
            raise UnsafeEntry(f"refused entry {kind!r} {name[:200]!r}")
        over = self._over(kind, size, path)
        if over:
            self._leave_out(name, over)
            self._skip = size if kind == b"f" else 0
        elif kind == b"x":
            self._gone.append(name)
        else:
            self._links.pop(name, None)
            if kind == b"l":
                self._links[name] = link
            else:
                self._make(kind, mode, size, path)
            self._written.append(name)
            if mode & _KNOWN:
                self._known.append(name)

    def _over(self, kind: bytes, size: int, path: PurePosixPath) -> str | None:
        """The bound that an entry is over, in words; else it is counted."""
        bounds = self._bounds
        if kind == b"o":
            return "what the sandbox left out"
        if kind == b"x":
            return None
        if len(path.parts) - (kind != b"d") > bounds.depth:
            return f"more than {bounds.depth} directories below each other"
        if len(os.fsencode(str(path))) > bounds.name_bytes or max(len(os.fsencode(part)) for part in path.parts) > 255:
            return f"a name of more than {bounds.name_bytes} bytes"
        if kind == b"l":
            size = 0
            if len(self._links) >= bounds.links:
                return f"more than {bounds.links} links"
        if self._entries >= bounds.entries:
            return f"more than {bounds.entries} entries"
        if size > bounds.file_bytes or size > self._budget:
            return f"more than {min(bounds.file_bytes, bounds.total_bytes) >> 20} MiB"
        self._entries += 1
        self._budget -= size
        return None

    def _leave_out(self, name: str, why: str) -> None:
        if not self._cut:
            raise UnsafeEntry(f"{why}: {name[:200]!r}")
        if len(self._left_out) < _NAMED:
            self._left_out.append(name)

    def _make(self, kind: bytes, mode: int, size: int, path: PurePosixPath) -> None:
        parent = self._open_parents(path.parts[:-1])
        try:
            if kind == b"d":
                os.close(_child_dir(parent, path.name))
            else:
                _remove(parent, path.name)
                self._file = os.open(path.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=parent)
                os.fchmod(self._file, (mode & 0o777) | 0o600)
                self._left = size
        finally:
            os.close(parent)

    def _open_parents(self, parts: tuple[str, ...]) -> int:
        fd = os.dup(self._root)
        for part in parts:
            below = _child_dir(fd, part)
            os.close(fd)
            fd = below
        return fd


def unpack(
    archive: BinaryIO, target: Path, bounds: Bounds = Bounds(), cut: bool = False, known: Callable[[str], bool] = lambda _: False
) -> Received:
    """Write a tar file that came out of a sandbox below ``target``. UnsafeEntry when it leads outside, and, unless it may be ``cut``, when
    it is not whole or over a bound. Blocks."""
    unpacker = Unpacker(target, False, bounds, cut)
    try:
        for chunk in from_tar(archive, known):
            unpacker.feed(chunk)
        return unpacker.close()
    except TornArchive:
        if not cut:
            raise
        return unpacker.close()
    finally:
        unpacker.abort()


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
