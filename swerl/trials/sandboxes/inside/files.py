"""Files of a sandbox: what comes in, what goes out, what changed, and directories that are what they seem.

A transfer is a stream of entries; the format is described in `swerl.trials.sandboxes.tree`, which this cannot import. Nothing is written
or removed through a link below the directory that was named.
"""
# ruff: noqa: PTH101, PTH103, PTH208, SIM105
# No pathlib and no contextlib in here: start-up is part of every trial's cost.

import errno
import os
import stat

from frames import CHUNK, fail, send

KNOWN = 0o1000000  # in an entry's mode: it was there when the baseline was taken
DEEPEST = 100  # directories below each other
LEAST = 4096  # what any entry counts against the limit of a download, so that a million empty files are too many
GIT = ".git"  # the agent's repository is not part of its answer: hooks and objects would come with it

discarded = 0


def real_dir(path):
    """Make ``path`` an empty directory reached through directories only: a link or a file on the way is removed first."""
    fd = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    parts = [part for part in path.split("/") if part]
    for at, part in enumerate(parts):
        try:
            info = os.stat(part, dir_fd=fd, follow_symlinks=False)
            if not stat.S_ISDIR(info.st_mode):
                os.unlink(part, dir_fd=fd)
            elif at == len(parts) - 1:
                discard(part, fd)
        except FileNotFoundError:
            pass  # made below
        try:
            os.mkdir(part, 0o755, dir_fd=fd)
        except FileExistsError:
            pass  # a real directory on the way
        below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
        os.close(fd)
        fd = below
    os.fchmod(fd, 0o777)
    os.close(fd)


def remove(root, *names):
    for name in names:
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            *parents, last = [part for part in name.split(b"/") if part]
            for part in parents:
                below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
                os.close(fd)
                fd = below
            if stat.S_ISDIR(os.stat(last, dir_fd=fd, follow_symlinks=False).st_mode):
                clear(last, fd)
            else:
                os.unlink(last, dir_fd=fd)
        except (FileNotFoundError, NotADirectoryError):
            continue  # it went with a parent
        finally:
            os.close(fd)


def discard(name, fd):
    """Take a directory out of the way, however deep or large: aside when a rename can do it, else entry by entry."""
    global discarded
    discarded += 1
    try:
        os.rename(name, f"/.discarded-{discarded}", src_dir_fd=fd)
        os.chmod(f"/.discarded-{discarded}", 0)
    except OSError:  # a directory of an overlay's lower layer cannot be renamed
        clear(name, fd)


def clear(name, parent):
    os.chmod(name, 0o700, dir_fd=parent)
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    try:
        for below in os.listdir(fd):
            if stat.S_ISDIR(os.stat(below, dir_fd=fd, follow_symlinks=False).st_mode):
                clear(below, fd)
            else:
                os.unlink(below, dir_fd=fd)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=parent)


class Unpack:
    """Writes a stream of entries below one directory (kind d) or to one file (kind f). No link below the target is followed."""

    def __init__(self, payload):
        kind, target = payload.split(b"\0")
        target = target.decode()
        self.rename = None
        if kind == b"f":
            target, self.rename = os.path.split(target)
        os.makedirs(target or "/", exist_ok=True)
        self.root = os.open(target or "/", os.O_RDONLY | os.O_DIRECTORY)
        self.buffer, self.file, self.left = bytearray(), None, 0
        self.modes = []

    def feed(self, data):
        self.buffer += data
        while True:
            if self.left:
                if not self.buffer:
                    return
                written = os.write(self.file, bytes(self.buffer[: self.left]))
                del self.buffer[:written]
                self.left -= written
                if self.left == 0:
                    os.close(self.file)
                    self.file = None
                continue
            if len(self.buffer) < 15:
                return
            name_end = 15 + int.from_bytes(self.buffer[13:15], "little")
            if len(self.buffer) < name_end:
                return
            kind, mode = self.buffer[0:1], int.from_bytes(self.buffer[1:5], "little")
            size = int.from_bytes(self.buffer[5:13], "little")
            name = self.buffer[15:name_end].decode(errors="surrogateescape")
            if kind == b"l":
                if len(self.buffer) < name_end + size:
                    return
                link = bytes(self.buffer[name_end : name_end + size])
                name_end += size
            del self.buffer[:name_end]
            self.entry(kind, mode, size, self.rename or name, link if kind == b"l" else b"")

    def entry(self, kind, mode, size, name, link):
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise OSError(f"entry leaves the target: {name}")
        if not parts:
            if self.rename is None and kind == b"d":
                self.modes.append((os.dup(self.root), mode))
            return
        fd = os.dup(self.root)
        for part in parts[:-1]:
            below = self.child(fd, part)
            os.close(fd)
            fd = below
        last = parts[-1]
        try:
            if kind == b"d":
                self.modes.append((self.child(fd, last), mode))
                return
            try:
                if stat.S_ISDIR(os.stat(last, dir_fd=fd, follow_symlinks=False).st_mode):
                    raise OSError(f"a directory is in the way: {name}")
                os.unlink(last, dir_fd=fd)
            except FileNotFoundError:
                pass  # nothing to replace
            if kind == b"l":
                os.symlink(link, last.encode(errors="surrogateescape"), dir_fd=fd)
                return
            self.file = os.open(last, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=fd)
            os.fchmod(self.file, mode & 0o777)
            self.left = size
            if size == 0:
                os.close(self.file)
                self.file = None
        finally:
            os.close(fd)

    def child(self, fd, name):
        try:
            return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                raise
            os.unlink(name, dir_fd=fd)
        os.mkdir(name, 0o700, dir_fd=fd)
        return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)

    def close(self):
        if self.left or self.buffer:
            raise OSError("the upload ended inside an entry")
        for fd, mode in reversed(self.modes):
            os.fchmod(fd, mode & 0o777)
            os.close(fd)
        os.close(self.root)
        self.modes = []


def head(kind, mode, size, name, flag=0):
    raw = name.encode(errors="surrogateescape")
    return kind + (mode & 0o777 | flag).to_bytes(4, "little") + size.to_bytes(8, "little") + len(raw).to_bytes(2, "little") + raw


def entry(parent, path, info, flag=0):
    """One entry: links as links; devices, sockets and pipes have none."""
    name = path.rpartition("/")[2]
    if stat.S_ISDIR(info.st_mode):
        yield head(b"d", info.st_mode, 0, path, flag)
    elif stat.S_ISLNK(info.st_mode):
        link = os.readlink(name, dir_fd=parent).encode(errors="surrogateescape")
        yield head(b"l", 0o777, len(link), path, flag) + link
    elif stat.S_ISREG(info.st_mode):
        yield from pack_file(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=parent), path, flag)


def pack(path):
    for name, info, parent in walk(os.open(path, os.O_RDONLY | os.O_DIRECTORY), ""):
        yield from entry(parent, name, info)


def walk(fd, prefix, skip=None, depth=0):
    """(path, stat, descriptor of the parent) below a directory, parents first, without its own entry ``skip``. Closes ``fd``."""
    try:
        if depth > DEEPEST:
            raise OSError(f"more than {DEEPEST} directories below each other")
        for name in sorted(os.listdir(fd)):
            try:
                if name == skip:
                    continue
                info = os.stat(name, dir_fd=fd, follow_symlinks=False)
                yield prefix + name, info, fd
                if stat.S_ISDIR(info.st_mode):
                    below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
                    yield from walk(below, prefix + name + "/", None, depth + 1)
            except FileNotFoundError:
                continue  # removed while we walk
    finally:
        os.close(fd)


def pack_file(fd, path, flag=0):
    """One regular file, cut or padded to the size it had when opened (it may change under a running command)."""
    try:
        info = os.fstat(fd)
        yield head(b"f", info.st_mode, info.st_size, path, flag)
        left = info.st_size
        while left:
            data = os.read(fd, min(left, CHUNK)) or bytes(min(left, CHUNK))
            left -= len(data)
            yield data
    finally:
        os.close(fd)


class Baseline:
    """What a directory held before the agent, so that afterwards only its changes travel. A change cannot hide: ctime is the kernel's."""

    def __init__(self, root):
        self.root, self.seen = root, {}
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        for path, info, _ in walk(fd, "", GIT):
            self.seen[path] = mark(info)

    def changes(self):
        """Entries that are new or differ, parents first, then `x` entries for what is gone. A directory's own entry is its mode."""
        gone = dict(self.seen)
        try:
            fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:  # removed, or replaced by something that is no directory: everything is gone
            fd = None
        for path, info, parent in () if fd is None else walk(fd, "", GIT):
            before = gone.pop(path, None)
            if before != mark(info):
                yield from entry(parent, path, info, 0 if before is None else KNOWN)
        for path in sorted(gone, reverse=True):
            yield head(b"x", 0, 0, path)


def mark(info):
    if stat.S_ISDIR(info.st_mode):
        return (stat.S_IFDIR, info.st_mode & 0o777)  # a directory's times change with its contents, which are listed anyway
    return (stat.S_IFMT(info.st_mode), info.st_mode & 0o777, info.st_size, info.st_ino, info.st_ctime_ns)


def download(ident, payload, baseline):
    """Frames of a download, one at a step, so that commands are served in between."""
    kind, path, limit = payload.split(b"\0")
    left = int(limit)
    try:
        if kind == b"d":
            entries = pack(path)
        elif kind == b"c":
            if baseline is None or baseline.root != path:
                raise OSError("no baseline was taken there")
            entries = baseline.changes()
        else:
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                os.close(fd)
                raise OSError(f"not a regular file: {path.decode(errors='replace')}")
            entries = pack_file(fd, "file")
        for piece in entries:
            left -= max(len(piece), LEAST)
            if left < 0:
                raise OSError(f"more than {int(limit)} bytes below {path.decode(errors='replace')}")
            send(ident, b"D", piece)
            yield
        send(ident, b"E")
    except (OSError, RecursionError) as error:
        fail(ident, error)
