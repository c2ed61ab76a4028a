"""Commands of a sandbox: start, output, time limits, and the end of everything that still runs."""
# ruff: noqa: PTH208, SIM105
# No pathlib and no contextlib in here: start-up is part of every trial's cost.

import _ctypes
import _signal as signal
import os
import select
import time

from frames import CHUNK, HIGH_WATER, out, send

MAX_STRAYS = 64

poller = select.poll()
commands = {}  # pid -> Command
streams = {}  # fd -> (Command or None, kind)


def prctl_dumpable(value):
    prctl = _ctypes.dlsym(_ctypes.dlopen(None, 0), "prctl")
    if _ctypes.call_function(prctl, (4, value, 0, 0, 0)) != 0:
        raise OSError("PR_SET_DUMPABLE failed")


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
    """Forward at most ``chunks`` chunks of what a stream holds. 17 cover the largest pipe, and nobody can hold us by writing on."""
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
    until = now_ms() + 10_000
    while now_ms() < until:
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


def kill(ident):
    for job in list(commands.values()):
        if job.ident == ident:
            kill_group(job)


def pause(paused):
    """The runner is slow to read: let the commands block on their pipes until it has caught up."""
    for fd in streams:
        poller.modify(fd, 0 if paused else select.POLLIN)
