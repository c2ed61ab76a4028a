"""Metrics by step, validations with interval and coverage, and the trials' own curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from swerl.dashboard.context import Seen
from swerl.record.results import PUBLISHED_COVERAGE, mean_pass_at, wilson
from swerl.record.results import Trial as Verdict


def names(seen: Seen) -> list[str]:
    return [row[0] for row in seen.rows("SELECT name FROM names WHERE EXISTS (SELECT 1 FROM points WHERE name = names.id) ORDER BY name")]


def series(seen: Seen, wanted: Sequence[str], first: int | None, last: int | None) -> dict[str, Any]:
    """``{name: [[step, value], ...]}``; a name that the run does not know gives an empty list."""
    low, high = first if first is not None else -1, last if last is not None else 1 << 60
    return {name: [[step, value] for step, value in seen.points(name).items() if low <= step <= high] for name in wanted}


def validations(seen: Seen) -> list[dict[str, Any]]:
    """Resolve rate of every validation with its 95 % interval, coverage and pass@k, counted from verdicts.

    What was to be run is the largest number of trials of any validation, unless the trainer's metrics tell the coverage."""
    told = seen.points("swerl/val/coverage")
    rows = seen.rows(
        "SELECT step, sum(trials), sum(graded), sum(resolved), count(*) FROM groups WHERE split = 'val' GROUP BY step ORDER BY step"
    )
    most = max((row[1] for row in rows), default=0)
    found = []
    for step, trials, graded, resolved, tasks in rows:
        low, high = wilson(resolved, graded)
        coverage = told.get(step, graded / most if most else 0.0)
        found.append(
            {
                "step": step,
                "value": resolved / graded if graded else None,
                "low": low if graded else None,
                "high": high if graded else None,
                "resolved": resolved,
                "graded": graded,
                "trials": trials,
                "tasks": tasks,
                "coverage": coverage,
                "published": coverage >= PUBLISHED_COVERAGE,
                "pass_at": pass_at(seen, step),
                "outcomes": {
                    row[0]: row[1]
                    for row in seen.rows("SELECT outcome, sum(trials) FROM steps WHERE split = 'val' AND step = ? GROUP BY outcome", step)
                },
            }
        )
    return found


def pass_at(seen: Seen, step: int) -> dict[str, float]:
    rows = seen.rows("SELECT task, graded, resolved FROM groups WHERE split = 'val' AND step = ?", step)
    trials = [
        Verdict("val", row["task"], sample, f"L:{step}", "completed", float(sample < row["resolved"]))
        for row in rows
        for sample in range(row["graded"])
    ]
    most = max((row["graded"] for row in rows), default=0)
    found = {}
    k = 1
    while k <= most:
        value = mean_pass_at(trials, k)
        if value is not None:
            found[str(k)] = value[0]
        k *= 2
    return found


def resolve_rates(seen: Seen) -> list[dict[str, Any]]:
    """Training trials by step: share resolved with interval, mean reward, share of groups with a signal."""
    found = []
    for step, groups, graded, resolved, signal in seen.rows(
        "SELECT step, count(*), sum(graded), sum(resolved), sum(signal) FROM groups WHERE split = 'train' GROUP BY step ORDER BY step"
    ):
        low, high = wilson(resolved, graded)
        found.append(
            {
                "step": step,
                "value": resolved / graded if graded else None,
                "low": low,
                "high": high,
                "groups": groups,
                "signal": signal,
            }
        )
    return found
