"""What a test session leaves on the machine: processes, mounts, cgroups, segments of shared memory, folders under /tmp.

A process is ours when it carries the mark that `begin` puts into the environment, or descends from this one. The rest has no owner's name
on it: new since the start, of this user and in use by no living process counts as left, so that a second session beside this one is not
blamed for what it is working with.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

MARK = "SWERL_TEST_SESSION"
STANDINS = "SWERL_TEST_STANDINS"  # a file: ``pid started`` or ``segment name`` a line, what stand-ins leave on purpose
SHM, TMP, CGROUPS = Path("/dev/shm"), Path("/tmp"), Path("/sys/fs/cgroup")
PATIENCE_S = 5.0  # in which what was told to end is gone


@dataclass(frozen=True, slots=True)
class Before:
    mark: str
    mounts: frozenset[str]
    segments: frozenset[str]
    folders: frozenset[str]
    cgroups: frozenset[str]


def begin() -> Before:
    os.environ[MARK] = mark = uuid.uuid4().hex
    descriptor, os.environ[STANDINS] = tempfile.mkstemp(prefix="standins-")
    os.close(descriptor)
    return Before(mark, mounts(), names(SHM, ""), names(TMP, "swerl-"), cgroups())


def end_standins() -> None:
    """End what stand-ins have left on purpose for a supervisor under test: whether it is swept, those tests say."""
    file = Path(os.environ.pop(STANDINS))
    for kind, name in (line.split() for line in file.read_text().splitlines()):
        if kind == "segment":
            (SHM / name).unlink(missing_ok=True)
            continue
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(int(kind))
            if f"{process.create_time():.2f}" == name:
                process.send_signal(signal.SIGKILL)
    file.unlink()


def left(before: Before) -> list[str]:
    """What is left, in words; waits a little for what is about to go."""
    until = time.monotonic() + PATIENCE_S
    while (found := _left(before)) and time.monotonic() < until:
        time.sleep(0.25)
    return found


def _left(before: Before) -> list[str]:
    found = [f"process {p.pid}: {' '.join(p.info['cmdline'] or [p.info['name']])[:200]}" for p in processes(before.mark)]
    found += [f"mount {path}" for path in sorted(mounts() - before.mounts) if "/swerl-" in path or "/pytest-" in path]
    found += [f"cgroup {path}" for path in sorted(cgroups() - before.cgroups) if not populated(Path(path))]
    new_segments, new_folders = names(SHM, "") - before.segments, names(TMP, "swerl-") - before.folders
    if new_segments or new_folders:
        used = in_use()
        found += [f"segment {SHM / name}" for name in sorted(new_segments) if f"{SHM / name}" not in used]
        kept = {name for name in new_folders if name.startswith("swerl-t-")}  # of scripts/test.py, which removes it after us
        found += [f"folder {TMP / name}" for name in sorted(new_folders - kept) if not any(p.startswith(f"{TMP / name}/") for p in used)]
    return found


def processes(mark: str) -> list[psutil.Process]:
    here = psutil.Process()
    ours = {child.pid for child in here.children(recursive=True)}
    found = []
    for process in psutil.process_iter(["cmdline", "name", "status"]):
        with suppress(psutil.Error):
            if process.pid == here.pid or process.info["status"] == psutil.STATUS_ZOMBIE:
                continue
            if "multiprocessing.resource_tracker" in " ".join(process.info["cmdline"] or ()):
                continue  # Python's own, which ends with this process
            if process.pid in ours or process.environ().get(MARK) == mark:
                found.append(process)
    return found


def mounts() -> frozenset[str]:
    return frozenset(line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())


def names(folder: Path, prefix: str) -> frozenset[str]:
    found = set()
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            if path.name.startswith(prefix) and path.lstat().st_uid == os.geteuid():
                found.add(path.name)
    return frozenset(found)


def cgroups() -> frozenset[str]:
    return frozenset(str(path) for pattern in ("swerl-*", "*/swerl-*") for path in CGROUPS.glob(pattern) if path.is_dir())


def populated(group: Path) -> bool:
    """Whether processes are in the group or below it: then somebody works with it."""
    for path in [group, *group.rglob("*")]:
        with suppress(OSError):
            if path.is_dir() and (path / "cgroup.procs").read_text().strip():
                return True
    return False


def in_use() -> set[str]:
    """Files that living processes have mapped, open or as their working directory."""
    found: set[str] = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            found |= {line.split(maxsplit=5)[5] for line in (process / "maps").read_text().splitlines() if len(line.split(maxsplit=5)) == 6}
        with suppress(OSError):
            found.add(f"{(process / 'cwd').readlink()}/")
            for fd in (process / "fd").iterdir():
                with suppress(OSError):
                    found.add(str(fd.readlink()))
    return found
