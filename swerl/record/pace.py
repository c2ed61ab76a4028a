"""One rate and one time left for every screen: display, status, dashboard and the demo's table say the same of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

RECENT_STEPS = 10


def recent_step_s(steps: Mapping[int, float]) -> float | None:
    """Seconds a step: the mean of the newest `RECENT_STEPS` of these (step -> seconds); step 0, the validation before training, is none."""
    newest = [steps[step] for step in sorted(step for step in steps if step >= 1)[-RECENT_STEPS:]]
    return sum(newest) / len(newest) if newest else None


def validations_due(step: int, total: int, every: int) -> int:
    """How many validations come after ``step`` is done: each ``every`` steps, and one at the end; none where ``every`` is not positive."""
    return 0 if every <= 0 else sum(1 for later in range(step + 1, total + 1) if later % every == 0 or later == total)


def validation_s(events: Iterable[Mapping[str, Any]]) -> float | None:
    """How long the newest validation took, by ``validation.begin`` and ``validation.end``, oldest first; None before one is over."""
    began, took = None, None
    for event in events:
        if event["kind"] == "validation.begin":
            began = event["time"]
        elif event["kind"] == "validation.end" and began is not None:
            took, began = event["time"] - began, None
    return took


def left_s(step: int, total: int | None, step_s: float | None, every: int, one_validation_s: float | None) -> float | None:
    """Seconds until the run is complete; None where its end, its pace, or what a validation costs is not known yet."""
    if total is None or step_s is None:
        return None
    due = validations_due(step, total, every)
    if due and one_validation_s is None:
        return None
    return max(0, total - step) * step_s + due * (one_validation_s or 0.0)
