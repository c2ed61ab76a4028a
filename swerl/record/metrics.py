"""``metrics.jsonl``: one row a step, ours, without holes or doubles whatever was killed when.

A row is ``{"step": int, "lineage": str, "data": {name: number}}``. The trainer is the only writer. The order that keeps the file whole:
the row of a step is on disk before the checkpoint of that step counts as one to resume from. Rows of steps after the restored checkpoint
describe weights that no longer exist: ``resume`` moves them to ``metrics.superseded.jsonl``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from swerl.record.rundir import write_atomic


@dataclass(frozen=True, slots=True)
class Row:
    """What one step measured. Step 0 is the validation before training."""

    step: int
    lineage: str
    data: Mapping[str, Any]

    def line(self) -> bytes:
        return orjson.dumps({"step": self.step, "lineage": self.lineage, "data": self.data}, option=orjson.OPT_SERIALIZE_NUMPY) + b"\n"


@dataclass(frozen=True, slots=True)
class Resumed:
    """What ``resume`` did: how many rows it moved away, and which steps the file ought to have and has not (none if the order was kept)."""

    superseded: int
    missing: tuple[int, ...]


class MetricsLog:
    """The writer. Open one per process; opening repairs a line that a killed writer left torn."""

    def __init__(self, path: Path):
        self.path = path
        self.superseded_path = path.with_name("metrics.superseded.jsonl")
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.read_bytes().endswith(b"\n"):
            _rewrite(path, _rows(path))

    def append(self, step: int, lineage: str, data: Mapping[str, Any]) -> None:
        """Add a row, or more names to a row of the same step and lineage. On disk when this returns."""
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(handle, Row(step, lineage, data).line())
            os.fsync(handle)
        finally:
            os.close(handle)

    def resume(self, step: int) -> Resumed:
        """Make the file fit weights of ``step`` (-1: none at all): later rows leave. Repeatable; a kill inside leaves rows in both files at
        worst, and the next call knows them by step and lineage."""
        rows = list(_rows(self.path))
        late = [row for row in rows if row.step > step]
        kept = [row for row in rows if row.step <= step]
        if late:
            already = {(row.step, row.lineage) for row in _rows(self.superseded_path)}
            fresh = [row for row in merged(late) if (row.step, row.lineage) not in already]
            _rewrite(self.superseded_path, [*_rows(self.superseded_path), *fresh])
            _rewrite(self.path, merged(kept))
        have = {row.step for row in kept}
        return Resumed(len({(row.step, row.lineage) for row in late}), tuple(n for n in range(1, step + 1) if n not in have))


def read_metrics(path: Path) -> list[Row]:
    """Rows by step, each step once. Of a step with rows of two lineages the later written one stands."""
    by_step = {row.step: row for row in merged(_rows(path))}
    return [by_step[step] for step in sorted(by_step)]


def merged(rows: Iterable[Row]) -> list[Row]:
    """One row for each step and lineage, in the order they were last written; later names win."""
    found: dict[tuple[int, str], Row] = {}
    for row in rows:
        key = (row.step, row.lineage)
        before = found.pop(key, None)
        found[key] = row if before is None else Row(row.step, row.lineage, {**before.data, **row.data})
    return list(found.values())


def _rows(path: Path) -> Iterator[Row]:
    """Whole rows in file order; the torn last line of a killed writer is no row."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            value = orjson.loads(line)
            yield Row(value["step"], value["lineage"], value["data"])


def _rewrite(path: Path, rows: Iterable[Row]) -> None:
    write_atomic(path, b"".join(row.line() for row in rows))
