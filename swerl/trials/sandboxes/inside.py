"""Process 1 of a sandbox: runs commands and moves files for the runner, over one socket, with the sandbox's own (few) rights.

Standard library only, and of that only modules written in C (start-up is part of every trial's cost). It is compiled once per root
filesystem and handed to the sandbox as data; nothing is imported after the start, so a tampered root filesystem cannot reach it later.
It cannot be killed (process 1 of its namespace), traced (the filter) or read through /proc/1 (not dumpable) by the commands it runs.

Frames in both directions: length u32 | id u32 | kind u8 | payload (little endian). Text payloads are fields joined by NUL.
  in   I limits: nproc, fsize, nofile, data, port, door   X command: cwd, timeout in ms, bytes kept per stream, command, K=V ...
       K kill the group of command id            Q end every other process        W make these real, empty directories
       U upload begins: kind f|d, target         D, E its data and its end        B remember a directory as it is now
       G download: kind f file, d directory, c changes since B; path, byte limit  N make directories
       Z remove: directory, names below it       T what is this path: d, f or nothing
  out  R result of a request without data                    O, F stdout, stderr              C command ended: code, timed out, truncated
       D, E data and end of a download           ! failure: one sentence
File transfer is a stream of entries, see `tree.py`, whose format this file repeats because it cannot import it.
"""

import _ctypes
import _signal as signal
import _socket
import errno
import os
import resource
import select
import stat
import sys
import time

CONTROL = 10
CHUNK = 1 << 16
HIGH_WATER = 1 << 20
MAX_STRAYS = 64
KNOWN = 0o1000000  # in an entry's mode: it was there when the baseline was taken
GIT = ".git"  # the agent's repository is not part of its answer: hooks and objects would come with it

out = bytearray()
poller = select.poll()
commands = {}  # pid -> Command
streams = {}  # fd -> (Command or None, kind)
uploads = {}  # id -> Unpack
downloads = []  # generators of frames, served one at a time
discarded = 0
baseline = None


def prctl_dumpable(value):
    prctl = _ctypes.dlsym(_ctypes.dlopen(None, 0), "prctl")
    if _ctypes.call_function(prctl, (4, value, 0, 0, 0)) != 0:
        raise OSError("PR_SET_DUMPABLE failed")


def send(ident, kind, payload=b""):
    out.extend(len(payload).to_bytes(4, "little") + ident.to_bytes(4, "little") + kind + payload)


def fail(ident, error):
    send(ident, b"!", str(error).encode(errors="replace"))


class Command:
    def __init__(self, ident, pid, kept, deadline):
        self.ident, self.pid, self.deadline = ident, pid, deadline
        self.left = {b"O": kept, b"F": kept}
        self.timed_out = self.truncated = False


def now_ms():
    return int(time.monotonic() * 1000)


def start(ident, payload):
    cwd, timeout_ms, kept, command, *env = payload.split(b"\0")
    stdout_r, stdout_w = os.pipe()
    stderr_r, stderr_w = os.pipe()
    try:
        pid = os.fork()
    except OSError as error:
        for fd in (stdout_r, stdout_w, stderr_r, stderr_w):
            os.close(fd)
        raise OSError(f"cannot start a command: {error.strerror} (process limit reached?)") from None
    if pid == 0:
        try:
            os.setsid()
            for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            os.dup2(stdout_w, 1)
            os.dup2(stderr_w, 2)
            raise_oom_score()
            os.chdir(cwd)
            os.execve(b"/bin/bash", [b"bash", b"-c", command], dict(pair.split(b"=", 1) for pair in env))
        except OSError as error:
            os.write(2, f"sandbox: {error.strerror}: {cwd.decode(errors='replace')}\n".encode())
        finally:
            os._exit(126)
    os.close(stdout_w)
    os.close(stderr_w)
    job = Command(ident, pid, int(kept), now_ms() + int(timeout_ms) if timeout_ms != b"0" else None)
    commands[pid] = job
    for fd, kind in ((stdout_r, b"O"), (stderr_r, b"F")):
        os.set_blocking(fd, False)
        streams[fd] = (job, kind)
        poller.register(fd, 0 if len(out) > HIGH_WATER else select.POLLIN)


def raise_oom_score():
    """Commands die before process 1 does when memory runs out."""
    prctl_dumpable(1)
    try:
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(fd, b"500")
        os.close(fd)
    except OSError:
        pass  # only the order of killing is lost; without a cgroup there is nothing to order


def pump(fd, chunks):
    """Forward at most ``chunks`` chunks of what a stream holds. 17 cover the largest pipe; a process that writes for ever cannot hold us."""
    job, kind = streams[fd]
    for _ in range(chunks):
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            return
        if not data:
            drop(fd)
            return
        if job is not None:
            kept = data[: job.left[kind]]
            job.left[kind] -= len(kept)
            job.truncated = job.truncated or len(kept) < len(data)
            if kept:
                send(job.ident, kind, kept)


def drop(fd):
    del streams[fd]
    poller.unregister(fd)
    os.close(fd)


def reap():
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        job = commands.pop(pid, None)
        if job is None:
            continue
        for fd in [fd for fd, (owner, _) in streams.items() if owner is job]:
            pump(fd, 17)
            if fd in streams:  # a child in the background holds it; keep reading so that it does not block or die of SIGPIPE
                streams[fd] = (None, b"")
        strays = [fd for fd, (owner, _) in streams.items() if owner is None]
        for fd in strays[:-MAX_STRAYS]:
            drop(fd)
        code = os.waitstatus_to_exitcode(status)
        send(job.ident, b"C", f"{code}\0{int(job.timed_out)}\0{int(job.truncated)}".encode())


def kill_group(job):
    try:
        os.killpg(job.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it ended by itself and is reaped on the next turn


def expire():
    """Kill what is over its time; return how long poll may sleep, in milliseconds."""
    nearest = 60_000
    for job in commands.values():
        if job.deadline is not None:
            left = job.deadline - now_ms()
            if left <= 0:
                job.timed_out, job.deadline = True, None
                kill_group(job)
            else:
                nearest = min(nearest, left)
    return nearest


def others():
    """Command lines of every process but this one."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and name != "1":
            try:
                fd = os.open(f"/proc/{name}/cmdline", os.O_RDONLY)
                line = os.read(fd, 200).replace(b"\0", b" ").strip()
                os.close(fd)
                if line:  # a zombie has none
                    found.append(line)
            except OSError:
                continue  # gone in between
    return found


def quiesce(ident):
    """End every other process and answer with what was still alive. SIGKILL to -1 is one atomic sweep, so nothing outforks it for long."""
    alive = others()
    for _ in range(100):
        try:
            os.kill(-1, signal.SIGKILL)
        except ProcessLookupError:
            break
        time.sleep(0.001)
        reap()
        if not others():
            break
    else:
        raise OSError(f"processes survive SIGKILL: {others()[:4]}")
    send(ident, b"R", b"\0".join(alive[:32]))


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
    """Writes a stream of entries below one directory (kind d) or to one file (kind f). Nothing is written through a link below the target."""

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


def download(ident, payload):
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
            left -= len(piece)
            if left < 0:
                raise OSError(f"more than {int(limit)} bytes below {path.decode(errors='replace')}")
            send(ident, b"D", piece)
            yield
        send(ident, b"E")
    except (OSError, RecursionError) as error:
        fail(ident, error)


def harden(ident, payload):
    nproc, fsize, nofile, data, port, door = (int(field) for field in payload.split(b"\0"))
    for name, value in (("NPROC", nproc), ("FSIZE", fsize), ("NOFILE", nofile), ("DATA", data), ("CORE", 0)):
        if value or name == "CORE":
            resource.setrlimit(getattr(resource, "RLIMIT_" + name), (value, value))
    if port:
        hand_over(port, door)
    send(ident, b"R")


def hand_over(port, door):
    """Listen on 127.0.0.1:port of this namespace and give the listening socket to the runner, which serves it: the only way out."""
    listener = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
    listener.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(64)
    channel = _socket.socket(fileno=door)
    channel.sendmsg([b"L"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, listener.fileno().to_bytes(4, "little"))])
    channel.close()
    listener.close()


class Baseline:
    """What a directory held before the agent, so that afterwards only its changes travel. A change cannot hide: ctime is the kernel's."""

    def __init__(self, root):
        self.root, self.seen = root, {}
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        for path, info, _ in walk(fd, "", GIT):
            self.seen[path] = mark(info)

    def changes(self):
        """Entries that are new or differ, parents first, then `x` entries for what is gone. A whole directory counts as its own entry only."""
        gone = dict(self.seen)
        fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        for path, info, parent in walk(fd, "", GIT):
            before = gone.pop(path, None)
            if before != mark(info):
                yield from entry(parent, path, info, 0 if before is None else KNOWN)
        for path in sorted(gone, reverse=True):
            yield head(b"x", 0, 0, path)


def mark(info):
    if stat.S_ISDIR(info.st_mode):
        return (stat.S_IFDIR, info.st_mode & 0o777)  # a directory's times change with its contents, which are listed anyway
    return (stat.S_IFMT(info.st_mode), info.st_mode & 0o777, info.st_size, info.st_ino, info.st_ctime_ns)


def walk(fd, prefix, skip=None):
    """(path, stat, descriptor of the parent) below a directory, parents first, without its own entry ``skip``. Closes ``fd``."""
    try:
        for name in sorted(os.listdir(fd)):
            try:
                if name == skip:
                    continue
                info = os.stat(name, dir_fd=fd, follow_symlinks=False)
                yield prefix + name, info, fd
                if stat.S_ISDIR(info.st_mode):
                    yield from walk(os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd), prefix + name + "/")
            except FileNotFoundError:
                continue  # removed while we walk
    finally:
        os.close(fd)


def handle(ident, kind, payload):
    global baseline
    try:
        if kind == b"X":
            start(ident, payload)
        elif kind == b"K":
            for job in list(commands.values()):
                if job.ident == ident:
                    kill_group(job)
        elif kind == b"D":
            if ident in uploads:
                uploads[ident].feed(payload)
        elif kind == b"E":
            if ident in uploads:
                uploads.pop(ident).close()
                send(ident, b"R")
        elif kind == b"U":
            uploads[ident] = Unpack(payload)
        elif kind == b"G":
            downloads.append(download(ident, payload))
        elif kind == b"Q":
            quiesce(ident)
        elif kind == b"W":
            for path in payload.decode().split("\0"):
                real_dir(path)
            send(ident, b"R")
        elif kind == b"N":
            for path in payload.split(b"\0"):
                os.makedirs(path, exist_ok=True)
            send(ident, b"R")
        elif kind == b"Z":
            remove(*payload.split(b"\0"))
            send(ident, b"R")
        elif kind == b"T":
            send(ident, b"R", b"d" if os.path.isdir(payload) else b"f" if os.path.isfile(payload) else b"")
        elif kind == b"B":
            baseline = Baseline(payload)
            send(ident, b"R")
        elif kind == b"I":
            harden(ident, payload)
        else:
            raise OSError(f"unknown frame {kind!r}")
    except (OSError, ValueError, RecursionError) as error:
        uploads.pop(ident, None)
        fail(ident, error)


def main():
    prctl_dumpable(0)
    os.umask(0o022)
    global CONTROL
    door = int(sys.argv[1])  # a descriptor of the runner's for `hand_over`, or -1; which number it has is chance
    CONTROL += door == CONTROL
    for fd in range(3, 256):
        if fd != door:
            try:
                os.close(fd)
            except OSError:
                continue  # not open
    os.dup2(0, CONTROL, inheritable=False)
    if door >= 0:
        os.set_inheritable(door, False)
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.set_blocking(CONTROL, False)
    wake_r, wake_w = os.pipe()
    os.set_blocking(wake_r, False)
    os.set_blocking(wake_w, False)
    signal.set_wakeup_fd(wake_w, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    poller.register(CONTROL, select.POLLIN)
    poller.register(wake_r, select.POLLIN)
    paused = False
    inbox = bytearray()
    send(0, b"R", b"ready")
    while True:
        while downloads and len(out) < HIGH_WATER:
            if next(downloads[0], StopIteration) is StopIteration:
                downloads.pop(0)
        poller.modify(CONTROL, select.POLLIN | (select.POLLOUT if out else 0))
        if paused != (len(out) > HIGH_WATER):  # the runner is slow: let the commands block on their pipes
            paused = not paused
            for fd in streams:
                poller.modify(fd, 0 if paused else select.POLLIN)
        for fd, event in poller.poll(expire()):
            if fd == wake_r:
                os.read(wake_r, 512)
                reap()
            elif fd != CONTROL:
                if fd in streams:
                    pump(fd, 1)
            else:
                if event & select.POLLOUT:
                    del out[: os.write(CONTROL, bytes(out[:CHUNK]))]
                if event & (select.POLLIN | select.POLLHUP):
                    data = os.read(CONTROL, CHUNK)
                    if not data:
                        os._exit(0)  # the runner is gone; the namespace goes with us
                    inbox += data
                    while len(inbox) >= 9 and len(inbox) >= 9 + int.from_bytes(inbox[:4], "little"):
                        end = 9 + int.from_bytes(inbox[:4], "little")
                        ident, kind, payload = int.from_bytes(inbox[4:8], "little"), bytes(inbox[8:9]), bytes(inbox[9:end])
                        del inbox[:end]
                        handle(ident, kind, payload)


main()
