"""The statistics: against tables worked out by hand, and by their properties."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swerl.record.results import Trial, best, costs, mean_pass_at, pass_at_k, rate, validations, wilson


def trial(task: str, sample: int, reward: float | None, *, version: str = "a:8", split: str = "val", outcome: str = "completed") -> Trial:
    return Trial(split, task, sample, version, outcome, reward, 1, 2.0)


def test_wilson_published_values():
    """Examples of Newcombe 1998 (table I, method 3)."""
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)
    assert wilson(0, 0) == (0.0, 1.0)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_share_and_mirrors(counts: tuple[int, int]):
    resolved, n = counts
    low, high = wilson(resolved, n)
    assert 0 <= low <= resolved / n <= high <= 1
    mirrored = wilson(n - resolved, n)
    assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high), abs=1e-12)
    wider = wilson(resolved * 4, n * 4)
    assert wider[1] - wider[0] < high - low


@given(st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_share_of_all_draws(case: tuple[int, int, int]):
    """Counting every way to draw k of n samples gives the same number."""
    n, resolved, k = case
    draws = list(itertools.combinations([True] * resolved + [False] * (n - resolved), k))
    assert pass_at_k(n, resolved, k) == pytest.approx(sum(any(d) for d in draws) / len(draws))


@given(st.integers(2, 30).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))))
def test_pass_at_k_grows_with_k(case: tuple[int, int]):
    n, resolved = case
    values = [pass_at_k(n, resolved, k) for k in range(1, n + 1)]
    assert values[0] == pytest.approx(resolved / n)
    assert all(a <= b + 1e-12 for a, b in itertools.pairwise(values))
    assert values[-1] == (1.0 if resolved else 0.0)


@pytest.mark.parametrize("bad", [(3, 4, 1), (3, -1, 1), (3, 1, 0), (3, 1, 4)])
def test_pass_at_k_refuses_nonsense(bad: tuple[int, int, int]):
    with pytest.raises(AssertionError):
        pass_at_k(*bad)


def test_ungraded_trials_lower_the_coverage_only():
    """8 resolved of 10 graded of 12 expected."""
    trials = [trial(f"t{i}", 0, float(i < 8)) for i in range(10)] + [trial("t10", 0, None, outcome="infra_failed")]
    found = rate(trials, expected=12)
    assert (found.value, found.resolved, found.graded, found.expected) == (0.8, 8, 10, 12)
    assert found.coverage == pytest.approx(10 / 12) and not found.published
    assert rate(trials[:10]).published


def test_nothing_graded_is_no_rate():
    found = rate([trial("t", 0, None)], expected=1)
    assert found.value is None and found.coverage == 0 and not found.published


def test_mean_over_tasks_not_trials():
    """One task of four samples, one resolved; one task of two samples, both resolved: pass@1 = (0.25 + 1) / 2, pass@4 rests on one task."""
    trials = [trial("a", i, float(i == 0)) for i in range(4)] + [trial("b", i, 1.0) for i in range(2)]
    assert mean_pass_at(trials, 1) == (0.625, 2)
    assert mean_pass_at(trials, 2) == ((0.5 + 1) / 2, 2)
    assert mean_pass_at(trials, 4) == (1.0, 1)
    assert mean_pass_at(trials, 8) is None
    assert mean_pass_at([trial("a", 0, None)], 1) is None


def test_validations_by_version_and_the_best_published():
    early = [trial(t, s, float(t == "a"), version="x:0") for t in "abcd" for s in range(2)]
    late = [trial(t, s, float(t in "abc"), version="x:8") for t in "abcd" for s in range(2)]
    thin = [trial("a", 0, 1.0, version="x:16")]
    training = [trial("z", 0, 0.0, version="x:8", split="train")]
    found = validations([*late, *training, *early, *thin], expected=8)
    assert [v.step for v in found] == [0, 8, 16]
    assert [v.rate.value for v in found] == [0.25, 0.75, 1.0]
    assert found[1].pass_at == {1: (0.75, 4), 2: (0.75, 4)}
    assert best(found) is found[1], "the last one covers an eighth of the tasks"
    assert best([]) is None


def test_a_trial_that_settled_again_counts_once():
    """An infrastructure failure that was run again later: the last line of the journal stands."""
    found = validations([trial("a", 0, None, outcome="env_failed"), trial("a", 0, 1.0)], expected=1)
    assert found[0].rate.value == 1.0 and found[0].outcomes == {"completed": 1}


def test_costs_keep_the_failed_ones_apart():
    found = costs([trial("a", 0, 1.0), trial("b", 0, None, outcome="tail_killed"), trial("c", 0, None, outcome="tail_killed")])
    assert found == {
        "completed": {"trials": 1, "attempts": 1, "seconds": 2.0},
        "tail_killed": {"trials": 2, "attempts": 2, "seconds": 4.0},
    }


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.sampled_from([None, 0.0, 0.5, 1.0])), max_size=20))
def test_validation_never_leaves_its_bounds(rows: list[tuple[str, int, float | None]]):
    for found in validations([trial(*row) for row in rows], expected=12):
        assert found.rate.graded <= found.rate.expected and 0 <= found.rate.coverage <= 1
        assert all(0 <= value <= 1 and not math.isnan(value) for value, _ in found.pass_at.values())
        if found.rate.value is not None:
            assert found.rate.low <= found.rate.value <= found.rate.high
