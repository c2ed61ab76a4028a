"""Which tasks the policy solves, when, and which of them teach it anything."""

from __future__ import annotations

from typing import Any

import orjson

from swerl.dashboard.context import Seen
from swerl.record.quarantined import quarantined

HALF = 2
EASY, HARD = 0.9, 0.1


def grid(seen: Seen, split: str) -> dict[str, Any]:
    """Tasks with their cells ``[step, trials, graded, resolved, signal]``, oldest step first, and what they add up to.

    ``drift`` is the resolve rate in the later half of the task's visits less that in the earlier half; None before two visits."""
    ids = seen.tasks()
    quarantined = _quarantined(seen)
    tasks: dict[str, list[list[int]]] = {}
    cursor = seen.db.cursor()
    cursor.row_factory = None  # plain tuples: there may be a hundred thousand
    cursor.execute("SELECT task, step, trials, graded, resolved, signal FROM groups WHERE split = ? ORDER BY step", (split,))
    for task, *cell in cursor:
        tasks.setdefault(task, []).append(cell)
    found = []
    for task, cells in tasks.items():
        _, trials, graded, resolved, signal = map(sum, zip(*cells, strict=True))
        name = ids.get(task, task)
        found.append(
            {
                "task": task,
                "id": name,
                "cells": cells,
                "trials": trials,
                "graded": graded,
                "resolved": resolved,
                "rate": resolved / graded if graded else None,
                "signal": signal,
                "drift": _drift(cells),
                "quarantined": quarantined.get(name),
            }
        )
    known = {entry["id"] for entry in found}
    for name, why in quarantined.items():
        if name not in known and split == "train":
            found.append(
                {
                    "task": "", "id": name, "cells": [], "trials": 0, "graded": 0, "resolved": 0,
                    "rate": None, "signal": 0, "drift": None, "quarantined": why,
                }
            )  # fmt: skip
    rates = [entry["rate"] for entry in found if entry["rate"] is not None]
    return {
        "split": split,
        "tasks": sorted(found, key=lambda entry: entry["id"]),
        "steps": sorted({cell[0] for entry in found for cell in entry["cells"]}),
        "groups": sum(len(entry["cells"]) for entry in found),
        "groups_with_signal": sum(entry["signal"] for entry in found),
        "always": sum(rate >= EASY for rate in rates),
        "never": sum(rate <= HARD for rate in rates),
    }


def _drift(cells: list[list[int]]) -> float | None:
    visits = [cell for cell in cells if cell[2]]
    if len(visits) < HALF:
        return None
    middle = len(visits) // HALF
    early, late = visits[:middle], visits[middle:]
    return sum(c[3] for c in late) / sum(c[2] for c in late) - sum(c[3] for c in early) / sum(c[2] for c in early)


def _quarantined(seen: Seen) -> dict[str, str]:
    """Task's id -> why, of those that are set aside now."""
    kinds = ("runner.started", "task.quarantined", "task.released")
    events = []
    for kind, data in seen.rows("SELECT kind, data FROM events WHERE kind IN (?, ?, ?) ORDER BY time", *kinds):
        try:
            events.append({"kind": kind, **orjson.loads(data)})
        except orjson.JSONDecodeError:
            continue  # its fields were too long to keep; the alarm about it stands
    return {entry.name: f"no attempt worked; the first: {entry.error}" for entry in quarantined(events) if entry.what == "task"}
