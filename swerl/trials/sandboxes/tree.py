"""Files in and out of a sandbox as a stream of entries that no link can redirect. The sandbox's end of it is in `inside`.

An entry is: kind u8 (`d` directory, `f` file, `l` link, `x` gone, `o` left out) | mode u32 | size u64 | name length u16 | name | body (size
bytes; for a link its target). Names are relative. What comes out of a sandbox is untrusted: `Unpacker` writes directories and files of its
own making and no link, raises on absolute names and "..", and holds to `Bounds`: what is over one of them ends the transfer, or is left out
and named where the transfer may be cut. What goes in (`pack`) is the host's, with its links as links, and those that came out as data.
"""

from __future__ import annotations

import itertools
import os
import stat
import struct
import tarfile
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from swerl.trials.sandboxes.received import USUAL, Bounds, Received, inside

_HEAD = struct.Struct("<cIQH")
_CHUNK = 1 << 16
_KINDS = b"dflxo"
_NAMED = 100  # of what is left out
_KNOWN = 0o1000000  # in an entry's mode: the sandbox's baseline knew the name


class UnsafeEntry(ValueError):
    """An entry from a sandbox that would leave the directory it is written to, or one more than there may be."""


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


class Unpacker:
    """Writes a sandbox's stream below ``target``, or (``single``) to the file ``target``. ``feed`` raises UnsafeEntry and OSError; with
    ``cut`` what is over a bound is left out instead. Blocks: `feed` and `close` belong into a thread."""

    def __init__(self, target: Path, single: bool, bounds: Bounds = USUAL, cut: bool = False):
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
        self._directories = {"."}
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
                written = os.write(self._file, memoryview(buffer)[: self._left].tobytes()) if buffer else 0
                del buffer[:written]
                self._left -= written
                if self._left:
                    if not buffer:
                        return
                    continue
                self._end_file()
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
            if not self._enter(kind, mode, size, self._rename or name, link) and kind == b"f":
                self._skip = size

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

    def entry(self, kind: bytes, mode: int, size: int, name: str, link: str = "") -> bool:
        """One entry whose body, if it is taken (True), is fed next: exactly ``size`` bytes."""
        with self._turn:
            return self._enter(kind, mode & (0o777 | _KNOWN), size, name, link)

    def _enter(self, kind: bytes, mode: int, size: int, name: str, link: str) -> bool:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name or kind not in _KINDS:
            raise UnsafeEntry(f"refused entry {kind!r} {name[:200]!r}")
        name = str(path)  # one name has one spelling
        over = self._over(kind, size, path)
        if over:
            self._leave_out(name, over)
            return False
        if kind == b"x":
            self._gone.append(name)
            return True
        for above in path.parents if self._links else ():  # a directory of ours by now
            self._links.pop(str(above), None)
        self._links.pop(name, None)
        self._make(kind, mode, size, path)
        if kind == b"l":
            self._links[name] = link
        self._written.append(name)
        if mode & _KNOWN:
            self._known.append(name)
        return True

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
        made = list(itertools.takewhile(lambda above: above not in self._directories, map(str, path.parents)))
        if self._entries + len(made) >= bounds.entries:
            return f"more than {bounds.entries} entries"
        if size > bounds.file_bytes or size > self._budget:
            return f"more than {min(bounds.file_bytes, bounds.total_bytes) >> 20} MiB"
        self._entries += len(made) + 1
        self._directories.update(made)
        if kind == b"d":
            self._directories.add(str(path))
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
                return
            _remove(parent, path.name)
            if kind == b"f":
                self._file = os.open(path.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=parent)
                os.fchmod(self._file, (mode & 0o777) | 0o600)
                self._left = size
                if size == 0:
                    self._end_file()
        finally:
            os.close(parent)

    def _end_file(self) -> None:
        assert self._file is not None
        os.close(self._file)
        self._file = None

    def _open_parents(self, parts: tuple[str, ...]) -> int:
        fd = os.dup(self._root)
        for part in parts:
            below = _child_dir(fd, part)
            os.close(fd)
            fd = below
        return fd


def unpack(
    archive: BinaryIO, target: Path, bounds: Bounds = USUAL, cut: bool = False, known: Callable[[str], bool] = lambda _: False
) -> Received:
    """Write a tar file that came out of a sandbox below ``target``. UnsafeEntry when it leads outside, and, unless it may be ``cut``, when
    it is not whole or over a bound. Blocks. A file under a second name becomes a file; what is neither file, link nor directory carries
    nothing and is left out. A compressed archive is none: a few bytes of it are any number of files."""
    unpacker = Unpacker(target, False, bounds, cut)
    regular: dict[str, tarfile.TarInfo] = {}
    try:
        with tarfile.open(fileobj=archive, mode="r:") as tar:
            for member in tar:
                name = member.name.removeprefix("./")
                flag = _KNOWN if known(name) else 0
                if member.isdir() and name not in (".", ""):
                    unpacker.entry(b"d", member.mode | flag, 0, name)
                elif member.issym():
                    unpacker.entry(b"l", flag, 0, name, member.linkname)
                elif member.isreg() or member.islnk():
                    # The first name of a second one is looked up here: `extractfile` would follow links of the archive's, in circles too.
                    first = regular.get(member.linkname.removeprefix("./")) if member.islnk() else member
                    if first is None:
                        continue
                    regular[name] = first
                    if unpacker.entry(b"f", member.mode | flag, first.size, name):  # else a hole of any size would be read
                        body = tar.extractfile(first)
                        assert body is not None
                        while data := body.read(_CHUNK):
                            unpacker.feed(data)
        return unpacker.close()
    except UnsafeEntry:
        raise
    except (tarfile.TarError, KeyError, ValueError, EOFError, OverflowError, struct.error) as error:
        if not cut:
            raise UnsafeEntry(f"the archive is not whole: {error}") from error
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
