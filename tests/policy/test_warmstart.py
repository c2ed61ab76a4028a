"""Demonstrations, the optimizer, and a warm start of a few steps: deterministic, resumable as a control, built once."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from pathlib import Path

import pytest

from swerl.data.generate import make_tasks
from swerl.errors import SwerlError
from swerl.policy import demonstrations, protocol
from swerl.policy.recipe import RECIPES, Recipe

pytestmark = pytest.mark.train
TASKS = make_tasks(41, 60, "train")
TINY = Recipe(clean_steps=3, mixed_steps=3, batch_size=4, tokenizer_tasks=300, demo_tasks=60)


def commands(turns: list[tuple[str, bool]]) -> list[str]:
    return [found for text, by_policy in turns if by_policy and (found := protocol.parse_call(text)) is not None]


def test_each_kind_of_demonstration() -> None:
    rng = random.Random(0)
    for task, other in itertools.pairwise(TASKS):
        told = {kind: commands(demonstrations.turns(task, other, kind, rng)) for kind in demonstrations.KINDS}
        read, gold = f"cat -n {task.file}", task.edit.command(task.file)
        assert told["good"] == [read, gold]
        assert told["quit"] == [read]
        assert told["wrong"] == [read, other.edit.command(task.file)]
        assert told["blind"] == [other.edit.command(task.file)]
        assert told["misfix"][0] == read and len(told["misfix"]) == 2
        if task.near_misses:
            assert told["misfix"][1] != gold


def test_shares_of_a_mix() -> None:
    rng = random.Random(0)
    drawn = Counter(demonstrations.draw_kind(rng, {"good": 0.3, "blind": 0.7}) for _ in range(4000))
    assert set(drawn) == {"good", "blind"} and 0.27 < drawn["good"] / 4000 < 0.33


def test_phases_of_the_recipe_reach_the_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first steps see gold only, the later ones the mix."""
    from swerl.policy import tokenizer, warmstart

    built, drawn = tokenizer.build(make_tasks(11, 200, "train")), []
    real = demonstrations.turns
    monkeypatch.setattr(demonstrations, "turns", lambda task, other, kind, rng: drawn.append(kind) or real(task, other, kind, rng))
    recipe = Recipe(clean_steps=10, mixed_steps=10, mix={"blind": 1.0}, batch_size=2)
    batches = warmstart._batches(built, TASKS, recipe, random.Random(0))
    for _ in range(18):
        next(batches)
    assert drawn[:20] == ["good"] * 20 and set(drawn[20:]) == {"blind"}


def test_learning_rate_warms_up_holds_and_decays() -> None:
    recipe = Recipe(clean_steps=500, mixed_steps=500)
    scales = [recipe.lr_scale(step) for step in range(1000)]
    assert scales[0] == 0.01 and scales[99] == scales[599] == 1.0
    assert scales[599] > scales[800] > scales[950] >= scales[999] >= recipe.decay_to


def test_muon_makes_updates_orthogonal() -> None:
    import torch

    from swerl.policy.optimizer import orthogonal

    torch.manual_seed(0)
    for shape in ((3, 64, 32), (2, 32, 64)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(shape)))
        assert values.min() > 0.5 and values.max() < 1.3


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure on few trials: an untrained policy always writes up to the token limit."""
    from swerl.data.generate import repair
    from swerl.policy import build

    monkeypatch.setattr(build, "SAMPLES", 2)
    monkeypatch.setattr(repair, "NUM_VAL", 4)


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_builds_once_deterministically_and_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from swerl.policy import build

    monkeypatch.setattr(build, "WINDOW", (0.0, 0.6))
    first = build.build(tmp_path / "one", 3, 1, TINY, say=lambda line: None)
    second = build.build(tmp_path / "two", 3, 1, TINY, say=lambda line: None)
    other = build.build(tmp_path / "three", 4, 1, TINY, say=lambda line: None)
    assert first["weights_sha256"] == second["weights_sha256"] != other["weights_sha256"]
    assert first["recipe"] == TINY.as_dict() and first["val"]["trials"] == 8
    assert json.loads((tmp_path / "one" / build.CARD).read_text())["digest"] == first["digest"]
    assert not build.build(tmp_path / "one", 3, 1, TINY, say=lambda line: None)["built"]

    (tmp_path / "one" / build.WEIGHTS).write_bytes(b"torn")
    assert build.build(tmp_path / "one", 3, 1, TINY, say=lambda line: None)["weights_sha256"] == first["weights_sha256"]

    went_on = build.continue_training(tmp_path / "one", tmp_path / "more", 2, None, False, 1, say=lambda line: None)
    assert went_on["continues"] == first["digest"] and went_on["recipe"]["mixed_steps"] == 2
    assert went_on["weights_sha256"] != first["weights_sha256"]
    blind = build.measure_policy(tmp_path / "more", "none", 1)
    assert blind["instruction"] == "none" and blind["pass_at_1"] == 0.0


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_policy_outside_the_window_is_refused_and_the_old_one_stays(tmp_path: Path) -> None:
    from swerl.policy import build

    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept").write_text("x")
    with pytest.raises(SwerlError, match="SWERL-M001"):
        build.build(tmp_path / "out", 0, 1, TINY, say=lambda line: None)
    assert (tmp_path / "out" / "kept").read_text() == "x"


def test_continuing_from_nothing_is_refused(tmp_path: Path) -> None:
    from swerl.policy import build

    with pytest.raises(SwerlError, match="SWERL-M002"):
        build.continue_training(tmp_path, tmp_path / "out", 1, None, False, 1, say=lambda line: None)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_its_card(name: str) -> None:
    assert Recipe.of(json.loads(json.dumps(RECIPES[name].as_dict()))) == RECIPES[name]


def test_the_large_network_has_the_shape_of_its_recipe() -> None:
    shape = RECIPES["large"].shape
    from swerl.policy import model, tokenizer

    words = tokenizer.build(make_tasks(11, 200, "train", "large"), shape)
    config = model.new_model(words, 0, shape).config
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (8, 4, 64)
    assert len(words) <= config.vocab_size <= shape.vocabulary
    assert len(tokenizer.encode(words, f"{shape.numbered_lines:6d}\t")) == 1


def test_the_digest_follows_recipe_seed_and_threads() -> None:
    from swerl.policy import build

    digests = [build.build_digest(*of) for of in ((TINY, 0, 1), (TINY, 1, 1), (TINY, 0, 2), (Recipe(), 0, 1), (TINY, 0, 1))]
    assert len(set(digests)) == 4 and digests[0] == digests[-1]
