"""``metrics.jsonl``: one row a step, ours, without holes or doubles whatever was killed when.

A row is ``{"step": int, "lineage": str, "data": {name: number}}``. The trainer is the only writer. The order that keeps the file whole:
the row of a step is on disk before the checkpoint of that step counts as one to resume from. Rows of steps after the restored checkpoint
describe weights that no longer exist: ``resume`` moves them to ``metrics.superseded.jsonl``. A damaged line (a failing disk; a writer of
another version) is passed over by readers; the next writer moves it to ``metrics.damaged`` and says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from swerl.errors import Problem
from swerl.record.ledger import Ledger, damage, damaged, objects
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
    """The writer. Open one per process; opening cuts off what a killed writer left torn and moves damaged lines away (``damaged``)."""

    def __init__(self, path: Path):
        self.path = path
        self.superseded_path = path.with_name("metrics.superseded.jsonl")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.damaged = damaged_rows(path)
        if self.damaged is not None or (path.exists() and not path.read_bytes().endswith(b"\n")):
            kept = list(_rows(path))
            if self.damaged is not None:
                write_atomic(path.with_name("metrics.damaged"), path.read_bytes())
            _rewrite(path, kept)

    def append(self, step: int, lineage: str, data: Mapping[str, Any]) -> None:
        """Add a row, or more names to a row of the same step and lineage. On disk when this returns."""
        ledger = Ledger(self.path)
        try:
            ledger.add(Row(step, lineage, data).line(), sync=True)
        finally:
            ledger.close()

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


def damaged_rows(path: Path) -> Problem | None:
    """SWERL-R051 where lines of the file cannot be read."""
    lines = damaged(path)
    return damage(path, lines) if lines else None


def merged(rows: Iterable[Row]) -> list[Row]:
    """One row for each step and lineage, in the order they were last written; later names win."""
    found: dict[tuple[int, str], Row] = {}
    for row in rows:
        key = (row.step, row.lineage)
        before = found.pop(key, None)
        found[key] = row if before is None else Row(row.step, row.lineage, {**before.data, **row.data})
    return list(found.values())


def _rows(path: Path) -> Iterator[Row]:
    """Whole rows in file order. The torn last line of a killed writer is no row, and neither is a damaged one."""
    return (Row(value["step"], value["lineage"], value["data"]) for value in objects(path) if is_row(value))


def is_row(value: Mapping[str, Any]) -> bool:
    return isinstance(value.get("step"), int) and isinstance(value.get("lineage"), str) and isinstance(value.get("data"), dict)


def _rewrite(path: Path, rows: Iterable[Row]) -> None:
    write_atomic(path, b"".join(row.line() for row in rows))
