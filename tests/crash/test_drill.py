"""The kill drill itself: one seed, which kills gateway, runner, trainer, the engine's process and the whole tree of a real training."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import drill

pytestmark = pytest.mark.long


def test_a_seed_loses_doubles_and_changes_nothing(capsys):
    assert drill.main(1, steps=8) == 0
    assert "| 0 | 0 | 68 of 68 | 0 | 0 | 0 |" in capsys.readouterr().out


def test_kills_follow_from_the_seed():
    """Each victim once, at different steps, and seeds differ in order and in which process of the trainer dies."""
    kills = [drill.drawn(seed, 12, 9.0) for seed in range(20)]
    assert kills == [drill.drawn(seed, 12, 9.0) for seed in range(20)]
    for seed in kills:
        assert set(drill.VICTIMS) < {one.victim for one in seed} and len({one.step for one in seed}) == len(seed) == len(drill.VICTIMS) + 1
        assert all(1 < one.step < 12 and 0 <= one.delay_s <= 9 for one in seed)
    assert {one.victim for seed in kills for one in seed} == {*drill.VICTIMS, *drill.PROCESSES}


def test_only_the_engines_own_numbers_may_be_a_little_away():
    def difference(name, now):
        return drill.is_of_the_engine(drill.compare.Difference(f"step 3 {name}", 0.5, now))

    assert difference("rollout_corr/kl", 0.5 + 1e-7) and difference("training/rollout_probs_diff_mean", 0.5 - 1e-7)
    assert not difference("rollout_corr/kl", 0.5 + 1e-3) and not difference("rollout_corr/kl", None)
    assert not difference("actor/pg_loss", 0.5 + 1e-12) and not difference("critic/score/mean", 0.25)
