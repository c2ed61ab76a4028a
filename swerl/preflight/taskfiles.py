"""The files of tasks, read once for all checks that look into them, and no longer than a few seconds.

A task set may hold tens of thousands of tasks: what cannot be read in time is left out, evenly over the index, and the number that was
read is said.
"""

from __future__ import annotations

import os
import sys
import time
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from swerl.facts.indexes import Row

SCAN_S = 4.0
NEEDED = ("instruction.md", "task.toml", "tests/test.sh")


@dataclass(frozen=True, slots=True)
class TaskFiles:
    """``verifier`` and ``dockerfile`` are texts by path relative to the task; ``shadowing`` are Python files named like a module of the
    standard library; ``toml_error`` is empty where task.toml parses; ``storage_mb`` is what it asks for, 0 where it does not say."""

    row: Row
    toml_error: str
    verifier: dict[str, str]
    dockerfile: str
    shadowing: tuple[str, ...]
    environment_bytes: int
    storage_mb: int

    @property
    def test_script(self) -> str:
        return self.verifier.get("tests/test.sh", "")


@dataclass(frozen=True, slots=True)
class Scan:
    """The tasks that were read, of ``total`` that are there."""

    tasks: tuple[TaskFiles, ...]
    total: int

    @property
    def extent(self) -> str:
        return f"{len(self.tasks)} tasks" if len(self.tasks) == self.total else f"{len(self.tasks)} of {self.total} tasks in {SCAN_S:g} s"


def scan(rows: Iterable[Row]) -> Scan:
    """Read what there is time for, in an order that spreads over the whole index."""
    here = [row for row in rows if row.task_dir.is_dir()]
    deadline = time.monotonic() + SCAN_S
    found: list[TaskFiles] = []
    for row in _spread_order(here):
        if time.monotonic() > deadline:
            break
        found.append(_read(row))
    return Scan(tuple(found), len(here))


def _spread_order(rows: list[Row]) -> Iterable[Row]:
    """Every 64th, then the ones between: any beginning of it is spread evenly."""
    for offset in range(64):
        yield from rows[offset::64]


def missing_part(row: Row) -> str:
    """What a row's directory lacks of a task, in words; empty if nothing."""
    if not row.task_dir.is_dir():
        return f"{row.task_dir} does not exist"
    return next((f"no {name} in {row.task_dir}" for name in NEEDED if not (row.task_dir / name).is_file()), "")


def _read(row: Row) -> TaskFiles:
    folder = str(row.task_dir)
    verifier: dict[str, str] = {}
    shadowing: list[str] = []
    environment_bytes = 0
    for place in ("tests", "environment"):
        for directory, _, names in os.walk(f"{folder}/{place}"):
            for name in sorted(names):
                stem, _, suffix = name.rpartition(".")
                path = f"{directory}/{name}"
                if place == "environment":
                    environment_bytes += os.lstat(path).st_size
                if place == "tests" and suffix in {"sh", "py"}:
                    verifier[os.path.relpath(path, folder)] = _text(path)
                if suffix == "py" and stem in sys.stdlib_module_names and "__init__.py" not in names:
                    shadowing.append(os.path.relpath(path, folder))
    dockerfile = f"{folder}/environment/Dockerfile"
    error, storage_mb = _toml(f"{folder}/task.toml")
    return TaskFiles(row, error, verifier, _text(dockerfile), tuple(shadowing), environment_bytes, storage_mb)


def _text(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:  # absent, or no file: the checks that need it say so
        return ""


def _toml(path: str) -> tuple[str, int]:
    """What is wrong with it, and what it says of storage."""
    try:
        read = tomllib.loads(_text(path))
    except tomllib.TOMLDecodeError as error:
        return str(error), 0
    asked = read.get("environment", {})
    if not isinstance(asked, dict):
        return "", 0
    storage_mb = asked.get("storage_mb", sys.maxsize if "storage" in asked else 0)  # Harbor's older key has units of its own
    return "", storage_mb if isinstance(storage_mb, int) else 0
