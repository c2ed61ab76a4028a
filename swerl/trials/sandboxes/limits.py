"""Ceilings that only the host's root can set: control groups (v1 or v2) and inodes of the sandbox's filesystem.

Each function says by its return what it could not do; `missing()` says it for the machine, before any trial. Without root the limits of
processes, file size and open files (rlimits), and the size of the filesystem, still hold.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from swerl.trials.sandboxes.spec import Limits

CGROUP_ROOT = Path("/sys/fs/cgroup")
_FSPICK, _FSCONFIG = 433, 431  # the same numbers on every architecture (added after the tables were unified)
_SET_STRING, _RECONFIGURE = 1, 7
_AT_FDCWD = -100


@cache
def _version() -> int:
    """1 or 2 where this process may make groups with memory and process limits, else 0."""
    if os.geteuid() != 0:
        return 0
    if all(os.access(CGROUP_ROOT / name / "cgroup.procs", os.W_OK) for name in ("memory", "pids")):
        return 1
    try:
        controllers = (CGROUP_ROOT / "cgroup.subtree_control").read_text().split()
    except OSError:
        return 0
    return 2 if {"memory", "pids"} <= set(controllers) and os.access(CGROUP_ROOT, os.W_OK) else 0


def missing() -> list[str]:
    """What this machine cannot enforce, one phrase each; empty when every limit holds."""
    gaps = []
    if os.geteuid() != 0:
        gaps.append("a host user per sandbox (the runner is not root: all sandboxes share its user)")
        gaps.append("an inode limit (needs root)")
    if _version() == 0:
        gaps.append("memory and CPU limits per sandbox (no writable control groups: a data-segment limit per process stands in)")
    return gaps


@dataclass(frozen=True, slots=True)
class Group:
    """The control group directories of one sandbox, empty when the machine has none to give."""

    paths: tuple[Path, ...]

    def add(self, pid: int) -> None:
        for path in self.paths:
            _write(path / "cgroup.procs", str(pid))

    def oom_kills(self) -> int:
        """How often the kernel ended a process of this sandbox for its own memory. In a group that never came to its limit it was the
        host's."""
        for path in self.paths:
            for name in ("memory.events", "memory.oom_control"):
                file = path / name
                if file.exists():
                    fields = dict(line.split() for line in file.read_text().splitlines())
                    reached = int(fields["max"] if "max" in fields else (path / "memory.failcnt").read_text())
                    return int(fields.get("oom_kill", 0)) if reached else 0
        return 0

    def remove(self) -> bool:
        """True when nothing is left. False while a process of it is still ending."""
        gone = True
        for path in self.paths:
            try:
                path.rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                gone = False
            else:
                with contextlib.suppress(OSError):  # others of this run are still there
                    path.parent.rmdir()
        return gone


def group_root(run_tag: str, cpu: bool = True) -> list[Path]:
    """Where the groups of a run live, one directory per hierarchy."""
    if _version() == 1:
        names = ("memory", "pids", "cpu") if cpu and (CGROUP_ROOT / "cpu").is_dir() else ("memory", "pids")
        return [CGROUP_ROOT / name / f"swerl-{run_tag}" for name in names]
    return [CGROUP_ROOT / f"swerl-{run_tag}"] if _version() == 2 else []


def make_group(run_tag: str, name: str, limits: Limits) -> Group:
    """Raises OSError when the machine has control groups and they do not take the limits: a limit that was promised must hold."""
    paths = []
    for root in group_root(run_tag, cpu=limits.cpus > 0):
        path = root / name
        _make_dirs(path, cpu=limits.cpus > 0)
        paths.append(path)
        for file, value in _settings(path, limits):
            _write(path / file, value)
        _weigh(root)
    return Group(tuple(paths))


def _weigh(root: Path) -> None:
    """Give the run's sandboxes together the weight of as many ordinary processes as there are of them, at most one per core: under one
    ordinary weight, what else the host does would go before all of them."""
    plain = {"cpu.shares": 1024, "cpu.weight": 100}  # version 1 and 2
    for name, one in plain.items():
        if (file := root / name).exists():
            _write(file, str(one * max(1, min(sum(entry.is_dir() for entry in root.iterdir()), os.cpu_count() or 1))))


def _make_dirs(path: Path, cpu: bool) -> None:
    for _ in range(100):
        path.parent.mkdir(exist_ok=True)
        try:
            if _version() == 2:
                _write(path.parent / "cgroup.subtree_control", "+memory +pids" + (" +cpu" if cpu else ""))
            path.mkdir(exist_ok=True)
            return
        except FileNotFoundError:  # the last sandbox of this run went just now and took the parent with it
            continue
    raise OSError(f"{path.parent} is removed as fast as it is made")


def _settings(path: Path, limits: Limits) -> list[tuple[str, str]]:
    memory, quota = limits.memory_mb << 20, int(limits.cpus * 100_000)
    if _version() == 2:
        settings = [("memory.max", str(memory)), ("memory.swap.max", "0")] if memory else []
        settings += [("pids.max", str(limits.processes))] if limits.processes else []
        settings += [("cpu.max", f"{quota} 100000")] if quota else []
    else:
        settings = {
            "memory": [("memory.limit_in_bytes", str(memory))] if memory else [],
            "pids": [("pids.max", str(limits.processes))] if limits.processes else [],
            "cpu": [("cpu.cfs_period_us", "100000"), ("cpu.cfs_quota_us", str(quota))] if quota else [],
        }[path.parent.parent.name]
    return [(file, value) for file, value in settings if file != "memory.swap.max" or (path / file).exists()]


def _write(path: Path, text: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def limit_inodes(pid: int, inodes: int) -> None:
    """Give the filesystem at the root of process ``pid``'s namespace a ceiling of inodes. Host root only; OSError when refused."""
    fd = _syscall(_FSPICK, _AT_FDCWD, f"/proc/{pid}/root/".encode(), 0)
    try:
        _syscall(_FSCONFIG, fd, _SET_STRING, b"nr_inodes", str(inodes).encode(), 0)
        _syscall(_FSCONFIG, fd, _RECONFIGURE, None, None, 0)
    finally:
        os.close(fd)


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _syscall(*arguments: object) -> int:
    result = _libc().syscall(*arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
