"""Process 1 of a sandbox: runs commands and moves files for the runner, over one socket, with the sandbox's own (few) rights.

Standard library only, and of that only modules written in C (start-up is part of every trial's cost). The modules of this directory are
compiled once per root filesystem and handed to the sandbox as data; nothing is imported after the start, so a tampered root filesystem
cannot reach it later. It cannot be killed (process 1 of its namespace, without a handler that a signal could reach), limited or traced (the
filter) or read through /proc/1 (not dumpable) by the commands it runs. Arguments: a descriptor of the runner's for `hand_over` or -1, and
the run's tag, which only the reaper reads.

Frames in both directions: length u32 | id u32 | kind u8 | payload (little endian). Text payloads are fields joined by NUL.
  in   I limits: nproc, fsize, nofile, data, port, door   X command: cwd, timeout in ms, bytes kept per stream, command, K=V ...
       K kill the group of command id            Q end every other process        W make these real, empty directories
       U upload begins: kind f|d, target         D, E its data and its end        B remember a directory as it is now
       G download: kind f file, d directory, c changes since B; path and bounds   N make directories
       Z remove: directory, names below it       T what is this path: d, f or nothing
  out  R result of a request without data        O, F stdout, stderr              C command ended: code, timed out, truncated
       D, E data and end of a download           ! failure: one sentence
"""
# ruff: noqa: PTH103, PTH112, PTH113
# No pathlib and no contextlib in here: start-up is part of every trial's cost.

import _signal as signal
import _socket
import os
import resource
import select
import sys

sys.path.insert(0, "/.swerl")
from commands import expire, kill, pause, poller, prctl_dumpable, pump, quiesce, reap, start, streams
from files import Baseline, Unpack, download, real_dir, remove
from frames import CHUNK, HIGH_WATER, fail, out, send

CONTROL = 10
uploads = {}  # id -> Unpack
downloads = []  # generators, served one at a time
baseline = None


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


def handle(ident, kind, payload):
    global baseline
    try:
        if kind == b"X":
            start(ident, payload)
        elif kind == b"K":
            kill(ident)
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
            downloads.append(download(ident, payload, baseline))
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
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        uploads.pop(ident, None)
        fail(ident, error)


def main():
    prctl_dumpable(0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's handler would let it through; the default ends no process 1
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
        if paused != (len(out) > HIGH_WATER):
            paused = not paused
            pause(paused)
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
