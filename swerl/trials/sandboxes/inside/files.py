"""Files of a sandbox: what comes in, what goes out, what changed, and directories that are what they seem.

A transfer is a stream of entries; the format is described in `swerl.trials.sandboxes.tree`, which this cannot import. Nothing is written
or removed through a link below the directory that was named. What is sent is read whatever its modes are: all that an agent makes belongs
to the user that this is, who may change them.
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


class Budget:
    """What one transfer may hold. Over it the transfer fails, or (``cut``) what does not fit is named as left out."""

    def __init__(self, total, file, deepest, cut):
        self.total, self.left, self.file, self.deepest, self.cut = total, total, file, deepest, cut

    def takes(self, size):
        cost = LEAST + size
        if cost <= self.left and size <= self.file:
            self.left -= cost
            return True
        if not self.cut:
            raise OSError(f"more than {self.total} bytes")
        return False

    @property
    def spent(self):
        return self.left < LEAST


def entry(parent, path, info, budget, flag=0):
    """One entry: links as links; devices, sockets and pipes have none."""
    name = path.rpartition("/")[2]
    if stat.S_ISDIR(info.st_mode):
        if budget.takes(0):
            yield head(b"d", info.st_mode, 0, path, flag)
    elif stat.S_ISLNK(info.st_mode):
        if budget.takes(0):
            link = os.readlink(name, dir_fd=parent).encode(errors="surrogateescape")
            yield head(b"l", 0o777, len(link), path, flag) + link
    elif stat.S_ISREG(info.st_mode):
        fd = open_file(name, parent)
        if fd is not None and budget.takes(info.st_size):
            yield from pack_file(fd, path, info.st_size, flag)
        else:
            if fd is not None:
                os.close(fd)
                budget.takes(0)
            yield head(b"o", 0, 0, path)


def open_file(name, parent):
    """None for another user's file that may not be read: it came with the image."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        return os.open(name, flags, dir_fd=parent)
    except PermissionError:
        pass
    try:
        os.chmod(name, 0o600, dir_fd=parent)
        return os.open(name, flags, dir_fd=parent)
    except PermissionError:
        return None


def open_dir(name, parent=None):
    """A directory made passable first, if it is not and this is its owner. OSError for a link, and where it stays closed."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    try:
        fd = os.open(name, flags, dir_fd=parent)
    except PermissionError:
        os.chmod(name, 0o700, dir_fd=parent)
        fd = os.open(name, flags, dir_fd=parent)
    mode = os.fstat(fd).st_mode
    if mode & 0o500 != 0o500:
        try:
            os.fchmod(fd, mode & 0o777 | 0o700)
        except PermissionError:
            pass  # another user's; what can be seen of it is seen
    return fd


def reach(path):
    """The directory at an absolute path. What is closed on the way is opened, then without following a link."""
    try:
        return open_dir(path)
    except PermissionError:
        pass
    fd = open_dir(b"/")
    for part in path.split(b"/"):
        if part:
            try:
                below = open_dir(part, fd)
            finally:
                os.close(fd)
            fd = below
    return fd


def pack(path, budget):
    for name, info, parent in walk(reach(path), "", budget=budget):
        if info is None:
            yield head(b"o", 0, 0, name)
        else:
            yield from entry(parent, name, info, budget)
        if budget.spent:
            yield head(b"o", 0, 0, "and more")
            return


def walk(fd, prefix, skip=None, depth=0, budget=None):
    """(path, stat, descriptor of the parent) below a directory, parents first and files before directories, without entries named ``skip``.
    The stat is None for a directory that is too deep, where the budget may be cut, or closed. Closes ``fd``."""
    try:
        directories = []
        for name in sorted(os.listdir(fd)):
            try:
                info = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                continue  # removed while we walk
            if name == skip:
                continue
            if stat.S_ISDIR(info.st_mode):
                directories.append((name, info))
            else:
                yield prefix + name, info, fd
        for name, info in directories:
            if depth == (DEEPEST if budget is None else budget.deepest):
                if budget is None or not budget.cut:
                    raise OSError(f"more than {depth} directories below each other")
                yield prefix + name, None, fd
                continue
            yield prefix + name, info, fd
            try:
                below = open_dir(name, fd)
            except FileNotFoundError:
                continue
            except PermissionError:
                yield prefix + name, None, fd
                continue
            yield from walk(below, prefix + name + "/", skip, depth + 1, budget)
            if info.st_mode & 0o500 != 0o500:
                os.chmod(name, info.st_mode & 0o777, dir_fd=fd)
    finally:
        os.close(fd)


def pack_file(fd, path, size, flag=0):
    """One regular file, cut or padded to ``size``, which it had a moment ago (it may change under a running command)."""
    try:
        yield head(b"f", os.fstat(fd).st_mode, size, path, flag)
        while size:
            data = os.read(fd, min(size, CHUNK)) or bytes(min(size, CHUNK))
            size -= len(data)
            yield data
    finally:
        os.close(fd)


class Baseline:
    """What a directory held before the agent, so that afterwards only its changes travel. A change cannot hide: ctime is the kernel's."""

    def __init__(self, root):
        self.root, self.seen = root, {}
        for path, info, _ in walk(reach(root), "", GIT):
            if info is not None:
                self.seen[path] = mark(info)

    def changes(self, budget):
        """Entries that are new or differ, parents first, then `x` entries for what is gone. A directory's own entry is its mode."""
        gone = dict(self.seen)
        try:
            fd = reach(self.root)
        except OSError:  # removed, or replaced by something that is no directory: everything is gone
            fd = None
        for path, info, parent in () if fd is None else walk(fd, "", GIT, budget=budget):
            if info is None:
                yield head(b"o", 0, 0, path)
                continue
            before = gone.pop(path, None)
            if before != mark(info):
                yield from entry(parent, path, info, budget, 0 if before is None else KNOWN)
        for path in sorted(gone, reverse=True):
            yield head(b"x", 0, 0, path)


def mark(info):
    if stat.S_ISDIR(info.st_mode):
        return (stat.S_IFDIR, info.st_mode & 0o777)  # a directory's times change with its contents, which are listed anyway
    return (stat.S_IFMT(info.st_mode), info.st_mode & 0o777, info.st_size, info.st_ino, info.st_ctime_ns)


def download(ident, payload, baseline):
    """Frames of a download, one at a step, so that commands are served in between."""
    kind, path, total, file, deepest = payload.split(b"\0")
    budget = Budget(int(total), int(file), int(deepest), cut=kind == b"d")
    try:
        if kind == b"d":
            entries = pack(path, budget)
        elif kind == b"c":
            if baseline is None or baseline.root != path:
                raise OSError("no baseline was taken there")
            entries = baseline.changes(budget)
        else:
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode):
                os.close(fd)
                raise OSError(f"not a regular file: {path.decode(errors='replace')}")
            budget.takes(info.st_size)
            entries = pack_file(fd, "file", info.st_size)
        for piece in entries:
            send(ident, b"D", piece)
            yield
        send(ident, b"E")
    except (OSError, RecursionError, MemoryError) as error:
        fail(ident, error)
