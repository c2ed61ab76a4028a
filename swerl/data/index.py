"""Indexes: parquet files whose rows point at task directories.

One row: ``prompt`` (one user message, the instruction), ``data_source``, ``reward_model`` ({"style": "rule", "ground_truth": null}: the
verifier decides) and ``extra_info`` (``Entry``, with ``task_path`` relative to the index file's directory). Every function checks what it
reads; a bad row is SWERL-D003 with its number. Files are written beside their place and moved there: a reader never sees half an index.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from swerl.data.hashing import task_hash
from swerl.errors import Problem, SwerlError, fail

NEEDED = ("task.toml", "instruction.md", "tests/test.sh")


@dataclass(frozen=True, slots=True)
class Entry:
    """One task of an index. ``path`` is absolute in memory; only the file holds it relative."""

    path: Path
    task_hash: str
    task_id: str
    split: str
    instruction: str
    data_source: str = "harbor"


def missing_parts(directory: Path) -> list[str]:
    """What keeps a directory from being a task: the needed files it lacks."""
    return [name for name in NEEDED if not (directory / name).is_file()]


def entry(directory: Path, split: str, data_source: str = "harbor") -> Entry:
    """The entry of one task directory; SWERL-D001 if it is none."""
    if missing := missing_parts(directory):
        what = f"{directory} is not a task: {', '.join(missing)} missing"
        raise fail("SWERL-D001", what, "give a directory in Harbor's task layout", str(directory))
    instruction = (directory / "instruction.md").read_text(encoding="utf-8").strip()
    return Entry(directory.resolve(), task_hash(directory), directory.name, split, instruction, data_source)


def build(tasks_dir: Path, split: str, data_source: str = "harbor") -> list[Entry]:
    """Entries of all tasks directly below ``tasks_dir``, in the order of their names; SWERL-D002 if there is none."""
    found = sorted(path.parent for path in tasks_dir.glob("*/task.toml"))
    if not found:
        raise fail("SWERL-D002", f"no task below {tasks_dir}", "give the directory that holds the task directories", str(tasks_dir))
    return [entry(directory, split, data_source) for directory in found]


def write(path: Path, entries: Sequence[Entry]) -> None:
    """Write the index at ``path``; its rows are numbered in the order given."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    base = path.parent.resolve()
    rows = [_row(item, number, base) for number, item in enumerate(entries)]
    text = pa.string()
    schema = pa.schema(
        {
            "prompt": pa.list_(pa.struct({"role": text, "content": text})),
            "data_source": text,
            "reward_model": pa.struct({"style": text, "ground_truth": text}),
            "extra_info": pa.struct({"task_path": text, "task_hash": text, "task_id": text, "split": text, "index": pa.int64()}),
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), part)
    part.replace(path)


def read(path: Path) -> list[Entry]:
    """Entries of the index at ``path``; whether the tasks still stand and match is ``verify``'s question."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise fail("SWERL-D004", f"no index at {path}", "build it: swerl data index build", str(path))
    try:
        rows = pq.read_table(path).to_pylist()
    except pa.ArrowException as error:
        raise fail("SWERL-D004", f"{path} is not a parquet file: {error}", "build the index again", str(path)) from error
    return [_entry(row, number, path) for number, row in enumerate(rows)]


def verify(path: Path, hashes: bool = True) -> list[Problem]:
    """Rows whose task is gone, incomplete or (``hashes``) changed; an empty list is a sound index."""
    problems = []
    for number, item in enumerate(read(path)):
        where = f"{path}:row {number}"
        if missing := missing_parts(item.path):
            what = f"task {item.task_id}: {item.path} lacks {', '.join(missing)}"
            problems.append(Problem("SWERL-D005", what, "restore the task or drop the row", where))
        elif hashes and task_hash(item.path) != item.task_hash:
            what = f"task {item.task_id} changed since the index was built"
            problems.append(Problem("SWERL-D006", what, "build the index again", where))
    return problems


def merge(parts: Iterable[Sequence[Entry]]) -> list[Entry]:
    """All entries, each content once (the first one stands)."""
    merged: dict[str, Entry] = {}
    for part in parts:
        for item in part:
            merged.setdefault(item.task_hash, item)
    return list(merged.values())


def split(entries: Sequence[Entry], val_share: float, seed: int) -> tuple[list[Entry], list[Entry]]:
    """(train, val): a task's side follows from its hash and the seed alone, so that a grown set keeps its split."""
    if not 0 < val_share < 1:
        raise fail("SWERL-D007", f"a val share of {val_share} leaves one side empty", "give a share between 0 and 1")
    sides: dict[str, list[Entry]] = {"train": [], "val": []}
    for item in entries:
        draw = int.from_bytes(hashlib.sha256(f"{seed}:{item.task_hash}".encode()).digest()[:8])
        side = "val" if draw < val_share * 2**64 else "train"
        sides[side].append(replace(item, split=side))
    return sides["train"], sides["val"]


def select(entries: Sequence[Entry], keep: Callable[[Entry], bool], limit: int | None = None, seed: int = 0) -> list[Entry]:
    """Entries that pass ``keep``, at most ``limit`` of them (drawn by ``seed``), in their old order."""
    kept = [item for item in entries if keep(item)]
    if limit is None or len(kept) <= limit:
        return kept
    return [kept[i] for i in sorted(random.Random(seed).sample(range(len(kept)), limit))]


def _row(item: Entry, number: int, base: Path) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": item.instruction}],
        "data_source": item.data_source,
        "reward_model": {"style": "rule", "ground_truth": None},
        "extra_info": {
            "task_path": Path(os.path.relpath(item.path.resolve(), base)).as_posix(),
            "task_hash": item.task_hash,
            "task_id": item.task_id,
            "split": item.split,
            "index": number,
        },
    }


def _entry(row: dict[str, Any], number: int, path: Path) -> Entry:
    try:
        info = row["extra_info"]
        item = Entry(
            (path.parent / info["task_path"]).resolve(),
            info["task_hash"],
            info["task_id"],
            info["split"],
            row["prompt"][0]["content"],
            row["data_source"],
        )
    except (KeyError, TypeError, IndexError) as error:
        raise _bad_row(number, path, f"lacks {error}") from error
    if not all(isinstance(value, str) for value in (item.task_hash, item.task_id, item.split, item.instruction, item.data_source)):
        raise _bad_row(number, path, "holds something else than text")
    return item


def _bad_row(number: int, path: Path, what: str) -> SwerlError:
    return fail("SWERL-D003", f"row {number} {what}", "build the index again: swerl data index build", f"{path}:row {number}")
