"""Fates by a table worked out by hand, and versions that still stand."""

from __future__ import annotations

import pytest

from swerl.dashboard.sums import Versions, _judge


def row(task: str, sample: int, outcome: str, reward: float | None, in_loss: bool = True, attempt: int = 1, version: str = "L1:3") -> dict:
    return {
        "task": task,
        "sample": sample,
        "version": version,
        "attempt": attempt,
        "outcome": outcome,
        "reward": reward,
        "in_loss": in_loss,
    }


def test_fates() -> None:
    rows = [
        row("a", 0, "completed", 1.0),
        row("a", 1, "completed", 0.0),
        row("a", 2, "agent_timeout", 0.0, in_loss=False),
        row("a", 3, "tail_killed", None, in_loss=False),
        row("b", 0, "completed", 0.0),
        row("b", 1, "max_turns", 0.0),
        row("c", 0, "completed", 1.0),
        row("c", 1, "infra_failed", None, in_loss=False),
        row("d", 0, "infra_failed", None, in_loss=False, attempt=2),
        row("d", 0, "completed", 1.0, attempt=3),
        row("d", 1, "completed", 0.0),
    ]
    _judge("train", rows, Versions())
    assert [r["new_fate"] for r in rows] == [
        *("trained", "trained", "masked", "killed"),
        *("no signal", "no signal"),
        *("masked", "failed"),  # alone in its group: no advantage without a second
        *("run again", "trained", "trained"),
    ]
    _judge("val", rows, Versions())
    assert {r["new_fate"] for r in rows} == {"validation", "run again"}


@pytest.mark.parametrize(
    ("version", "stands"),
    [("init:0", True), ("L1:1", True), ("L1:4", True), ("L1:5", False), ("L2:5", False), ("L2:9", False), ("L3:5", True), ("L3:90", True)],
)
def test_versions_that_stand(version: str, stands: bool) -> None:
    """L2 went on from L1:4 and was lost whole; L3 went on from L1:4 again."""
    starts = [
        {"epoch": 1, "base_step": 0, "base_version": "init:0"},
        {"epoch": 2, "base_step": 4, "base_version": "L1:4"},
        {"epoch": 3, "base_step": 4, "base_version": "L1:4"},
    ]
    assert Versions(starts).stands(version) is stands
    assert Versions().stands(version)
