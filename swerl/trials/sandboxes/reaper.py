"""Removes what runners of one run left behind, and nothing else: everything of a run carries its tag.

Sandboxes end with the runner that started them (their process 1 ends when its socket closes, and bubblewrap dies with its parent); what can
remain is a control group, an overlay mount and its directories, or, on a very unlucky kill, a process. Called under the journal's lock.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from swerl.trials.sandboxes import limits, overlay
from swerl.trials.sandboxes.launch import PROGRAM


@dataclass(slots=True)
class Reaped:
    processes: int = 0
    mounts: int = 0
    groups: int = 0
    directories: int = 0
    containers: int = 0
    pods: int = 0

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


def reap(run_tag: str, work_dir: str | os.PathLike[str] | None = None) -> Reaped:
    """Blocking. OSError only when something of ours refuses to go."""
    found = Reaped()
    victims = {process.pid for process in psutil.process_iter() if _ours(process, run_tag)} | _in_groups(run_tag)
    for pid in victims:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            found.processes += 1
    if work_dir is not None:
        base = Path(work_dir) / run_tag
        for mount in sorted(_mounts_below(base), key=lambda path: -len(path.parts)):
            overlay.unmount(mount)
            found.mounts += 1
        for directory in sorted(base.rglob("*"), key=lambda path: -len(path.parts)) if base.is_dir() else []:
            directory.rmdir()
            found.directories += 1
        with contextlib.suppress(FileNotFoundError):
            base.rmdir()
    for root in limits.group_root(run_tag):
        for group in [*(path for path in root.glob("*") if path.is_dir()), root]:
            found.groups += _remove_group(group)
    return found


def _ours(process: psutil.Process, run_tag: str) -> bool:
    try:
        line = process.cmdline()
    except psutil.Error:
        return False
    return any(word.startswith(PROGRAM) for word in line) and line[-1:] == [run_tag]


def _in_groups(run_tag: str) -> set[int]:
    pids: set[int] = set()
    for root in limits.group_root(run_tag):
        for file in root.glob("*/cgroup.procs"):
            with contextlib.suppress(OSError):
                pids |= {int(pid) for pid in file.read_text().split()}
    return pids


def _mounts_below(base: Path) -> list[Path]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [Path(line.split()[4].encode().decode("unicode_escape")) for line in lines]
    return [point for point in points if point.is_relative_to(base)]


def _remove_group(group: Path) -> int:
    for _ in range(200):  # its processes were just ended; the kernel takes a moment
        try:
            group.rmdir()
            return 1
        except FileNotFoundError:
            return 0
        except OSError:
            time.sleep(0.01)
    group.rmdir()
    return 1
