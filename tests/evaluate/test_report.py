"""The numbers of an evaluation, by hand: ungraded is beside the rate, never in it."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swerl.evaluate.order import Order
from swerl.evaluate.report import by_task, results, text

ORDER = Order("eval", "/policy", "hf-1:0", "/tasks/val.parquet", "0" * 64, 0, 2)


def settled(task, sample, reward, outcome="completed"):
    return {
        "identity": {"split": "val", "task_hash": task, "sample": sample, "version": "hf-1:0"},
        "outcome": outcome,
        "graded": reward is not None,
        "reward": reward,
        "attempts": 1,
        "timing": {"total_s": 2.0},
        "trial_name": f"{task}-{sample}",
    }


def test_what_is_not_graded_is_no_zero():
    trials = [settled("a", 0, 1.0), settled("a", 1, 0.0), settled("b", 0, 1.0), settled("b", 1, None, "infra_failed")]
    found = results(ORDER, trials, tasks=3)  # a third task was never settled
    rate = found["resolve_rate"]
    assert (rate["value"], rate["resolved"], rate["graded"], rate["expected"]) == (2 / 3, 2, 3, 6)
    assert rate["coverage"] == 0.5 and not rate["published"] and "TOO FEW GRADED" in text(found)
    assert found["infrastructure_failures"]["trials"] == 1 and found["infrastructure_failures"]["share"] == 1 / 6
    assert found["pass_at"]["1"] == {"value": 0.75, "tasks": 2} and found["pass_at"]["2"] == {"value": 1.0, "tasks": 1}
    assert found["tokens_recorded"]


def test_nothing_graded_is_no_rate():
    found = results(ORDER, [settled("a", 0, None, "env_failed")], tasks=1)
    assert found["resolve_rate"]["value"] is None and "there is no rate" in text(found)


def test_the_interval_knows_that_samples_of_a_task_are_alike():
    from swerl.record.results import trial_of

    alike = [trial_of(settled(f"t{n}", sample, float(n % 2))) for n in range(20) for sample in range(8)]
    mixed = [trial_of(settled(f"t{n}", sample, float(sample % 2))) for n in range(20) for sample in range(8)]
    wide, narrow = by_task(alike), by_task(mixed)
    # twenty tasks, half solved: the standard error of a mean of twenty coins
    assert wide["high"] - wide["low"] == pytest.approx(2 * 1.96 * math.sqrt(0.25 / 19), rel=1e-3)
    assert narrow["high"] == narrow["low"] == 0.5


@given(st.lists(st.lists(st.sampled_from([0.0, 1.0, None]), max_size=ORDER.samples), max_size=6))
def test_bounds_hold_whatever_was_settled(tasks):
    trials = [
        settled(f"t{task}", sample, reward, "completed" if reward is not None else "env_failed")
        for task, rewards in enumerate(tasks)
        for sample, reward in enumerate(rewards)
    ]
    rate = results(ORDER, trials, tasks=6)["resolve_rate"]
    if rate["value"] is not None:
        assert 0 <= rate["low"] <= rate["value"] <= rate["high"] <= 1
        if rate["by_task"]:
            assert 0 <= rate["by_task"]["low"] <= rate["value"] + 1e-9 and rate["value"] - 1e-9 <= rate["by_task"]["high"] <= 1


def test_an_order_is_the_same_wherever_its_engine_listens():
    from dataclasses import replace

    assert replace(ORDER, engine_port=1).digest == ORDER.digest != replace(ORDER, samples=3).digest
