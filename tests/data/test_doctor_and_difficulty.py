"""Verdicts of the doctor and the difficulty band, from rewards given by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swerl.data import difficulty, doctor
from swerl.data.difficulty import Band
from swerl.data.index import Entry
from swerl.errors import SwerlError


def entry(name: str) -> Entry:
    return Entry(Path(f"/t/{name}"), f"sha256:{name}", name, "train", "fix it")


def runner(table: dict[str, dict[str, list[float | None]]]):
    left = {name: {agent: list(rewards) for agent, rewards in agents.items()} for name, agents in table.items()}
    return lambda item, agent: left[item.task_id][agent].pop(0)


TABLE: dict[str, dict[str, list[float | None]]] = {
    "sound": {"oracle": [1, 1], "nop": [0, 0]},
    "oracle_fails": {"oracle": [0, 0], "nop": [0, 0]},
    "nop_passes": {"oracle": [1, 1], "nop": [1, 1]},
    "flaky": {"oracle": [1, 0], "nop": [0, 0]},
    "ungraded": {"oracle": [1, None], "nop": [0, 0]},
}


def test_each_verdict() -> None:
    report = doctor.examine([entry(name) for name in TABLE], runner(TABLE), repetitions=2)
    assert [diagnosis.verdict for diagnosis in report.diagnoses] == list(TABLE)
    assert report.sound == [entry("sound")] and report.sound_share == 0.2


def test_a_partial_reward_for_the_oracle_is_not_enough() -> None:
    report = doctor.examine([entry("a")], runner({"a": {"oracle": [0.5], "nop": [0]}}))
    assert report.diagnoses[0].verdict == "oracle_fails"


def test_threshold() -> None:
    report = doctor.examine([entry(name) for name in TABLE], runner(TABLE), repetitions=2)
    assert doctor.require(report, 0.2) is report
    with pytest.raises(SwerlError, match=r"SWERL-D010.*20\.0% of 5 tasks") as caught:
        doctor.require(report, 0.9)
    assert "flaky" in str(caught.value)


def test_an_error_of_the_runner_is_not_swallowed() -> None:
    def broken(item: Entry, agent: doctor.Agent) -> float:
        raise RuntimeError("no sandbox")

    with pytest.raises(RuntimeError, match="no sandbox"):
        doctor.examine([entry("a")], broken)


@given(st.lists(st.lists(st.sampled_from([0.0, 1.0, None]), max_size=5), max_size=8))
def test_the_band_puts_every_task_on_one_side(results: list[list[float | None]]) -> None:
    items = [entry(str(i)) for i in range(len(results))]
    sifted = difficulty.sift(items, {item.task_hash: rewards for item, rewards in zip(items, results, strict=True)}, Band())
    assert sorted((*sifted.kept, *sifted.too_hard, *sifted.too_easy, *sifted.unknown), key=lambda e: int(e.task_id)) == items
    for item in items:
        graded = [reward for reward in results[int(item.task_id)] if reward is not None]
        assert (item in sifted.unknown) == (len(graded) < 2)
        assert (item in sifted.kept) == (len(graded) >= 2 and 0 < sum(graded) < len(graded))


def test_a_task_without_results_is_unknown() -> None:
    assert difficulty.sift([entry("a")], {}, Band()).unknown == (entry("a"),)


@pytest.mark.parametrize("edges", [(0.5, 0.5), (0.8, 0.2), (-0.1, 1.0)])
def test_an_empty_band_is_refused(edges: tuple[float, float]) -> None:
    with pytest.raises(SwerlError, match="SWERL-D011"):
        Band(*edges)
