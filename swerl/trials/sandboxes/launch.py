"""From a spec to a running sandbox: the bubblewrap command line, the host user it runs as, and process 1's first words.

`start(spec, ...)` returns a `Sandbox` whose channel has answered "ready" and whose limits are in force. Every file the sandbox needs from
us (the program, the filter, /etc/passwd) is passed as data through a descriptor, so no path of the host appears inside. `Sandbox.stop`
ends every process of it and removes its group; both are safe to call twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from swerl.errors import fail
from swerl.trials.sandboxes import limits, seccomp
from swerl.trials.sandboxes.overlay import Overlay, mount_overlay
from swerl.trials.sandboxes.spec import DEFAULT_PATH, GROUP, HOST_ETC_DIRS, HOST_ETC_FILES, HOST_TOP, HOSTS, PASSWD, SandboxSpec
from swerl.trials.sandboxes.wire import Channel, SandboxDied

# Host users of sandboxes: each sandbox is a user of its own, outside every range that distributions hand out.
UID_BASE, UID_COUNT = 1_900_000_000, 65_536
START_TIMEOUT_S = 30.0
_INSIDE = Path(__file__).with_name("inside")
MODULES = ("frames", "commands", "files", "main")
PROGRAM = "/.swerl"
_PYTHONS = ("usr/bin/python3", "usr/local/bin/python3", "bin/python3")
_uids = itertools.cycle(range(UID_BASE, UID_BASE + UID_COUNT))


class SandboxStartFailed(RuntimeError):
    """The sandbox did not come up; the message carries what bubblewrap said."""


@dataclass(slots=True)
class Sandbox:
    """A running sandbox. ``pid`` is process 1 as the host sees it, ``uid`` the host user that owns everything inside, ``listener`` the
    socket at which its network namespace expects the gateway (network "gateway" only): whoever serves it decides what is reached."""

    name: str
    spec: SandboxSpec
    channel: Channel
    process: subprocess.Popen[bytes]
    pid: int
    uid: int
    group: limits.Group
    overlay: Overlay | None = None
    listener: socket.socket | None = None
    oom_kills: int = 0
    stopped: bool = field(default=False)

    @property
    def alive(self) -> bool:
        return self.channel.alive and self.process.poll() is None

    def out_of_memory(self) -> bool:
        """Whether the kernel ended one of its processes for memory. Stays known after `stop`."""
        with contextlib.suppress(OSError):
            self.oom_kills = max(self.oom_kills, self.group.oom_kills())
        return self.oom_kills > 0

    async def killed_from_outside(self) -> bool:
        """Whether process 1 was killed, and not for its group's memory: from inside no signal reaches it. Unknown (False) where there are
        no groups, because then the memory may have been the sandbox's."""
        ended = await _wait(self.process, 2.0)
        return ended and bool(self.group.paths) and not self.out_of_memory() and self.process.returncode in (-9, 128 + 9)

    async def stop(self) -> None:
        if self.stopped:
            return
        self.stopped = True
        self.out_of_memory()
        if self.listener is not None:
            self.listener.close()
        await self.channel.close()  # process 1 ends at the end of its socket, the namespace with it, and then bubblewrap
        if not await _wait(self.process, 2.0):
            self.process.kill()
            await _wait(self.process, 30.0)
        if self.overlay is not None:
            await asyncio.to_thread(self.overlay.unmount)
        await _remove(self.group)


async def _remove(group: limits.Group) -> None:
    """A group goes when its last process has; what is still there after some seconds is the reaper's."""
    for delay_s in (0.0, 0.005, 0.02, 0.1, 0.5, 1.0, 2.0):
        await asyncio.sleep(delay_s)
        if group.remove():
            return


async def _wait(process: subprocess.Popen[bytes], limit_s: float) -> bool:
    """Whether the process has ended (and is reaped) within the limit."""
    delay_s, until = 0.001, time.monotonic() + limit_s
    while process.poll() is None:
        if time.monotonic() > until:
            return False
        await asyncio.sleep(delay_s)
        delay_s = min(delay_s * 2, 0.05)
    return True


async def start(spec: SandboxSpec, run_tag: str, name: str) -> Sandbox:
    """Raises SandboxStartFailed (retry elsewhere or later) or SwerlError (this machine cannot do it at all)."""
    uid = next(_uids) if os.geteuid() == 0 else os.geteuid()
    group = limits.make_group(run_tag, name, spec.limits)
    overlay = mount_overlay(spec.rootfs, spec.work_dir / run_tag / name, uid, spec.limits) if spec.rootfs is not None else None
    ours, theirs = socket.socketpair()
    door, their_door = socket.socketpair()
    process, channel = None, None
    try:
        with theirs, their_door, _descriptors(spec) as passed:
            process = subprocess.Popen(
                [*_as_user(uid), *command_line(spec, passed, their_door.fileno(), overlay, run_tag)],
                stdin=theirs,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=[*passed.values(), their_door.fileno()],
                env={"PATH": DEFAULT_PATH},
                cwd="/",
                start_new_session=True,
            )
            their_door_number = their_door.fileno()
        channel = await Channel.over(ours)
        await asyncio.wait_for(asyncio.shield(channel.ready), START_TIMEOUT_S)
        pid = _child(process.pid)
        # Moving a process waits for a grace period of the kernel; only process 1 is moved, before it has started anything.
        await asyncio.to_thread(group.add, pid)
        sandbox = Sandbox(name, spec, channel, process, pid, uid, group, overlay)
        if os.geteuid() == 0 and spec.limits.inodes and overlay is None:
            limits.limit_inodes(pid, spec.limits.inodes)
        await channel.harden(
            processes=spec.limits.processes,
            file_bytes=spec.limits.file_mb << 20,
            files=spec.limits.files,
            data_bytes=0 if group.paths else spec.limits.memory_mb << 20,
            port=spec.gateway_port if spec.network == "gateway" else 0,
            door=their_door_number,
        )
        if spec.network == "gateway":
            sandbox.listener = _receive_listener(door)
        return sandbox
    except BaseException as error:
        said = await _discard(process, channel, ours, overlay, group)
        if isinstance(error, (SandboxDied, TimeoutError, OSError)):
            raise SandboxStartFailed(f"sandbox {name} did not start: {said or error!r}") from error
        raise
    finally:
        door.close()


def _receive_listener(door: socket.socket) -> socket.socket:
    door.setblocking(False)  # process 1 sent it before it answered
    _, descriptors, _, _ = socket.recv_fds(door, 1, 1)
    listener = socket.socket(fileno=descriptors[0])
    listener.setblocking(False)
    return listener


async def _discard(
    process: subprocess.Popen[bytes] | None, channel: Channel | None, ours: socket.socket, overlay: Overlay | None, group: limits.Group
) -> str:
    if channel is not None:
        await channel.close()
    ours.close()
    said = ""
    if process is not None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await _wait(process, 30.0)
        assert process.stderr is not None
        said = process.stderr.read(2000).decode(errors="replace").strip()
        process.stderr.close()
    if overlay is not None:
        overlay.unmount()
    await _remove(group)
    return said


def _child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


@contextlib.contextmanager
def _descriptors(spec: SandboxSpec) -> Iterator[dict[str, int]]:
    """Memory files for one start, by the path they get inside; bubblewrap reads each from its current position to the end."""
    contents = {**_files(spec.rootfs is None), "filter": seccomp.program()}
    opened: dict[str, int] = {}
    try:
        for name, data in contents.items():
            opened[name] = fd = os.memfd_create("sandbox")
            os.write(fd, data)
            os.lseek(fd, 0, os.SEEK_SET)
        yield opened
    finally:
        for fd in opened.values():
            os.close(fd)


@cache
def _files(of_host: bool) -> dict[str, bytes]:
    suffix = "pyc" if of_host else "py"
    files = {f"{PROGRAM}/{name}.{suffix}": data for name, data in _modules(of_host).items()}
    if of_host:
        files |= {f"/etc/{name}": Path("/etc", name).read_bytes() for name in HOST_ETC_FILES if Path("/etc", name).is_file()}
        files |= {"/etc/passwd": PASSWD.encode(), "/etc/group": GROUP.encode()}
    return {**files, "/etc/hosts": HOSTS.encode()}


def command_line(spec: SandboxSpec, passed: dict[str, int], door: int, overlay: Overlay | None, run_tag: str) -> list[str]:
    """The whole bubblewrap invocation. Pure: what it mounts follows from the spec and from which of the host's paths exist."""
    size = str(spec.limits.disk_mb << 20)
    line = [
        bwrap(),
        "--unshare-user",
        "--uid",
        "0",
        "--gid",
        "0",
        "--unshare-pid",
        "--unshare-ipc",
        "--unshare-uts",
        "--unshare-cgroup-try",
    ]
    line += [] if spec.network == "public" else ["--unshare-net"]
    line += ["--hostname", "sandbox", "--die-with-parent", "--as-pid-1", "--cap-drop", "ALL", "--clearenv"]
    if overlay is not None:
        line += ["--bind", str(overlay.merged), "/"]
    else:
        line += ["--size", size, "--tmpfs", "/", *_host_root()]
    line += ["--dev", "/dev", "--remount-ro", "/dev", "--size", str(min(spec.limits.disk_mb, 64) << 20), "--tmpfs", "/dev/shm"]
    line += ["--proc", "/proc"]
    line += ["--perms", "1777", "--dir", "/tmp", "--perms", "0700", "--dir", "/root", "--dir", "/run", "--dir", "/var/tmp"]
    for path, fd in passed.items():
        if path != "filter":
            line += ["--perms", "0444", "--file", str(fd), path]
    if spec.network == "public":
        line += ["--ro-bind-try", "/etc/resolv.conf", "/etc/resolv.conf"]
    for mount in spec.mounts:
        line += ["--ro-bind" if mount.read_only else "--bind", mount.source, mount.target]
    line += ["--seccomp", str(passed["filter"]), "--chdir", "/", "--"]
    suffix = "pyc" if spec.rootfs is None else "py"
    line += ["/" + _python(spec.rootfs), "-S", "-I", "-E", "-B", f"{PROGRAM}/main.{suffix}"]
    return [*line, str(door if spec.network == "gateway" else -1), run_tag]  # the tag is only there for the reaper to read


@cache
def _host_root() -> tuple[str, ...]:
    line = ["--ro-bind", "/usr", "/usr"]
    for name in HOST_TOP:
        top = Path("/") / name
        if top.is_symlink():
            line += ["--symlink", str(top.readlink()), str(top)]
        elif top.is_dir():
            line += ["--ro-bind", str(top), str(top)]
    if Path("/nix/store").is_dir():
        line += ["--ro-bind", "/nix/store", "/nix/store"]
    for name in HOST_ETC_DIRS:
        if Path("/etc", name).is_dir():
            line += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    return tuple(line)


def _as_user(uid: int) -> list[str]:
    """Become the sandbox's host user. By a program, because Popen's own way forks the whole runner instead of borrowing its memory."""
    return ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--"] if os.geteuid() == 0 else []


@cache
def bwrap() -> str:
    found = shutil.which("bwrap")
    if found is None:
        raise fail("SWERL-T011", "bubblewrap (bwrap) is not installed", "install the package bubblewrap, or choose another sandbox")
    return found


@cache
def _python(rootfs: Path | None) -> str:
    for name in _PYTHONS:
        if (Path(rootfs or "/") / name).exists():
            return name
    raise fail(
        "SWERL-T012",
        f"no python3 in the sandbox's root filesystem ({rootfs or 'the host'}): looked for {', '.join('/' + name for name in _PYTHONS)}",
        "install python3 there; process 1 of the sandbox is a Python program",
    )


@cache
def _modules(of_host: bool) -> dict[str, bytes]:
    """The program's modules: compiled when the interpreter that will run them is the host's, else as they are."""
    if not of_host:
        return {name: (_INSIDE / f"{name}.py").read_bytes() for name in MODULES}
    code = (
        "import sys, importlib._bootstrap_external as b\n"
        "for path in sys.argv[1:]:\n"
        "    c = b._code_to_timestamp_pyc(compile(open(path, 'rb').read(), 'sandbox', 'exec', optimize=2))\n"
        "    sys.stdout.buffer.write(len(c).to_bytes(4, 'little') + c)\n"
    )
    line = ["/" + _python(None), "-I", "-S", "-c", code, *(str(_INSIDE / f"{name}.py") for name in MODULES)]
    said, compiled = subprocess.run(line, capture_output=True, check=True).stdout, {}
    for name in MODULES:
        end = 4 + int.from_bytes(said[:4], "little")
        compiled[name], said = said[4:end], said[end:]
    return compiled
