"""Checkpoints that can be trusted after a crash: ``global_step_N`` counts only once ``swerl.json`` in it is complete and true.

verl writes the files of a step in place and its tracker file says nothing about whether they reached the disk. Here a checkpoint is
committed in a fixed order: files flushed, metrics row of the step on disk, then ``swerl.json`` (written aside, flushed, renamed). A kill
at any point leaves either a committed checkpoint or one that `newest` passes over. ``swerl.json`` holds the step, the version name of
the weights, and size and digest of every file. Beside them a user may keep what he likes: `directories` names what is ours.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from swerl.record.rundir import fsync_directory, write_atomic

MARKER = "swerl.json"
_SAMPLE_BYTES = 1 << 20
_NAME = re.compile(r"global_step_(0|[1-9][0-9]*)")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A committed checkpoint. ``version`` names the weights as trials do: ``<lineage>:<step>``."""

    path: Path
    step: int
    version: str

    @property
    def actor(self) -> Path:
        return self.path / "actor"


def commit(path: Path, step: int, version: str) -> Checkpoint:
    """Flush every file and directory under ``path`` and write the marker last. Raises FileNotFoundError if the actor's weights are
    missing."""
    if not any((path / "actor").glob("model_world_size_*")):
        raise FileNotFoundError(f"{path}/actor holds no model shard")
    files = {}
    for file in _files(path):
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
        files[str(file.relative_to(path))] = {"bytes": file.stat().st_size, "digest": ends_digest(file)}
    for folder in sorted({file.parent for file in _files(path)} | {path}):
        fsync_directory(folder)
    marker = {"step": step, "version": version, "files": files}
    write_atomic(path / MARKER, orjson.dumps(marker, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS))
    fsync_directory(path.parent)
    return Checkpoint(path, step, version)


def faults(path: Path) -> list[str]:
    """What keeps ``path`` from being a committed checkpoint, in words; empty when nothing does."""
    marker = path / MARKER
    if not is_name(path.name):
        return [f"{path} has not the name of a checkpoint (global_step_N)"]
    if not marker.exists():
        return [f"{marker} is missing: the step was not committed"]
    try:
        recorded = orjson.loads(marker.read_bytes())
        expected = {str(name): (facts["bytes"], facts["digest"]) for name, facts in recorded["files"].items()}
        if step_of(path) != recorded["step"]:
            return [f"{marker} is of step {recorded['step']}"]
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
        return [f"{marker} cannot be read: {error}"]
    found = []
    for name, (size, digest) in expected.items():
        file = path / name
        if not file.is_file():
            found.append(f"{file} is missing")
        elif file.stat().st_size != size:
            found.append(f"{file} has {file.stat().st_size} bytes, {size} were committed")
        elif ends_digest(file) != digest:
            found.append(f"{file} has other content than was committed")
    return found


def read_marker(path: Path) -> dict[str, Any]:
    """``swerl.json`` of a committed checkpoint: step, version, files."""
    return orjson.loads((path / MARKER).read_bytes())


def newest(root: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint under ``root`` that verifies, and the faults of newer ones that were passed over."""
    passed_over: list[str] = []
    for path in reversed(directories(root)):
        found = faults(path)
        if not found:
            marker = read_marker(path)
            return Checkpoint(path, marker["step"], marker["version"]), passed_over
        passed_over += found
    return None, passed_over


def retain(root: Path, keep: int | None) -> list[Path]:
    """Delete committed checkpoints beyond the ``keep`` newest (None keeps all) and return what went. Uncommitted ones are left alone:
    they may be in the middle of being written; so are links, which lead to where a user keeps something."""
    if keep is None:
        return []
    gone = [path for path in committed(root)[::-1][keep:] if not path.is_symlink()]
    for path in gone:
        (path / MARKER).unlink()  # first: a kill during the deletion leaves an uncommitted directory, not a half-empty checkpoint
        shutil.rmtree(path)
    return gone


def discard_uncommitted(root: Path) -> list[Path]:
    """Delete leftovers of steps that were never committed. For the start of a trainer, when nobody writes."""
    gone = [path for path in directories(root) if not (path / MARKER).exists() and not path.is_symlink()]
    for path in gone:
        shutil.rmtree(path)
    return gone


def directories(root: Path) -> list[Path]:
    """What verl wrote under ``root``, committed or not, by step: directories of its own names. A copy, an export or anything else of a
    user's beside them is none of ours: it is neither read nor deleted."""
    return sorted((path for path in root.glob("global_step_*") if is_name(path.name) and path.is_dir()), key=step_of)


def committed(root: Path) -> list[Path]:
    """Those of `directories` that have a marker. Whether its files are still what it says is for `faults`."""
    return [path for path in directories(root) if (path / MARKER).is_file()]


def is_name(name: str) -> bool:
    """Whether verl would give this name to a step's directory."""
    return _NAME.fullmatch(name) is not None


def step_of(path: Path) -> int:
    """The step of one of `directories`."""
    match = _NAME.fullmatch(path.name)
    assert match is not None, f"{path} is not a checkpoint directory"
    return int(match.group(1))


def _files(path: Path) -> list[Path]:
    return sorted(f for f in path.rglob("*") if f.is_file() and f.name != MARKER and not f.name.startswith(f".{MARKER}"))


def ends_digest(file: Path) -> str:
    """sha256 of the size, the first and the last MiB: catches truncation, holes at the end and mixed-up files at disk speed for shards
    of many gigabytes. It does not catch a flipped bit in the middle; file systems do that."""
    size = file.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with file.open("rb") as handle:
        digest.update(handle.read(_SAMPLE_BYTES))
        if size > _SAMPLE_BYTES:
            handle.seek(max(_SAMPLE_BYTES, size - _SAMPLE_BYTES))
            digest.update(handle.read(_SAMPLE_BYTES))
    return f"sha256-ends:{digest.hexdigest()}"
