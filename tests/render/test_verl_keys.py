"""Against the verl that is installed: the rendered overrides compose, and a user's are checked."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from swerl.errors import SwerlError
from swerl.render import render
from swerl.render.overrides_check import check_overrides
from swerl.render.verl_keys import compose, known_keys

pytestmark = pytest.mark.train
PYTHON = Path(sys.executable)


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    return known_keys(PYTHON, tmp_path_factory.mktemp("keys"))


@pytest.mark.parametrize("profile", [None, "demo-cpu", "h100x1"])
def test_the_rendered_overrides_compose(profile, config, run):
    values = compose(PYTHON, render(config(profile), run).overrides)["values"]
    c = config(profile)
    assert values["actor_rollout_ref"]["rollout"]["n"] == c.training.n_resp_per_prompt
    assert values["actor_rollout_ref"]["actor"]["optim"]["lr"] == c.algorithm.learning_rate
    assert values["swerl"] == {"run_dir": str(run.root), "bind_host": "127.0.0.1", "max_checkpoints": c.training.max_checkpoints}
    assert values["trainer"]["total_training_steps"] == c.training.total_steps


def test_two_machines_compose(config, run):
    values = compose(PYTHON, render(config(None, {"infrastructure.nnodes": 2}), run).overrides)["values"]
    assert values["ray_kwargs"]["ray_init"]["address"] == "127.0.0.1:6379"


@pytest.mark.slow
def test_verls_dataclasses_accept_the_rendered_configuration(config, run):
    """Composition checks names; verl's own dataclasses check types and rules."""
    from omegaconf import OmegaConf
    from verl.utils.config import omega_conf_to_dataclass

    for profile in (None, "demo-cpu", "h100x1"):
        composed = OmegaConf.create(compose(PYTHON, render(config(profile), run).overrides)["values"])
        OmegaConf.resolve(composed)
        for part in (composed.actor_rollout_ref.actor, composed.actor_rollout_ref.rollout, composed.algorithm):
            omega_conf_to_dataclass(part)


@pytest.mark.slow
def test_the_words_of_the_schema_are_verls(known):
    import torch
    from verl.trainer.ppo.core_algos import agg_loss, kl_penalty
    from verl.trainer.ppo.rollout_corr_helper import SUPPORTED_ROLLOUT_RS_OPTIONS

    from swerl.config.schema import keys

    ones = torch.ones(2, 3)
    for mode in keys()["algorithm.loss_agg_mode"].spec["enum"]:
        assert torch.isfinite(agg_loss(ones, ones, mode))
    for kind in keys()["algorithm.kl_loss_type"].spec["enum"]:
        assert torch.isfinite(kl_penalty(ones, ones, kind)).all()
    rules = re.compile(keys()["algorithm.rollout_correction.rollout_rs"].spec["pattern"])
    assert all(rules.match(rule) for rule in SUPPORTED_ROLLOUT_RS_OPTIONS) and not rules.match("seq_max_k1")


def test_known_keys_are_verls_and_are_kept(tmp_path):
    first = known_keys(PYTHON, tmp_path)
    assert "actor_rollout_ref.actor.optim.lr" in first.leaves and "actor_rollout_ref.actor" in first.groups
    (kept,) = tmp_path.glob("verl-keys-*.json")
    assert kept.name == f"verl-keys-{first.version}.json"
    assert known_keys(PYTHON, tmp_path) == first
    assert importlib.util.find_spec("verl") is not None


def test_every_verl_key_named_by_the_schema_exists(known, config, run):
    from swerl.config.schema import keys

    added = {o.partition("=")[0].lstrip("+") for o in render(config("demo-cpu"), run).overrides if o.startswith("+")}
    added |= {o.partition("=")[0].lstrip("+") for o in render(config(None), run).overrides if o.startswith("+")}
    added.add("ray_kwargs.ray_init.address")
    for key in keys().values():
        for name in key.verl:
            assert name in known.leaves or name in known.groups or name in added, f"{key.name}: {name}"


@pytest.mark.parametrize(
    ("name", "id", "says"),
    [
        ("actor_rollout_ref.actor.optim.lr", "SWERL-C012", "algorithm.learning_rate"),
        ("++actor_rollout_ref.actor.optim.lr", "SWERL-C012", "algorithm.learning_rate"),
        ("actor_rollout_ref.rollout", "SWERL-C012", "actor_rollout_ref.rollout"),
        ("trainer.default_local_dir", "SWERL-C012", "experiment.runs_dir"),
        ("data.return_raw_chat", "SWERL-C012", "swerl sets itself"),
        ("trainer.resume_mode", "SWERL-C012", "swerl sets itself"),
        ("swerl.run_dir", "SWERL-C012", "swerl"),
        ("trainer.balance_batc", "SWERL-C015", "trainer.balance_batch"),
        ("+trainer.balance_batch", "SWERL-C015", "already"),
    ],
)
def test_overrides_that_are_refused(name, id, says, config, run, known):
    c = config("demo-cpu", {f"verl_overrides.{name}": 1})
    (problem,) = check_overrides(c, run, known)
    assert problem.id == id and says in problem.message + problem.remedy and problem.where == "--set"


@pytest.mark.parametrize(
    "name", ["trainer.balance_batch", "actor_rollout_ref.actor.strategy", "+actor_rollout_ref.rollout.engine_kwargs.vllm.x"]
)
def test_overrides_that_are_accepted_reach_verl_once(name, config, run, known):
    c = config("demo-cpu", {f"verl_overrides.{name}": "fsdp"})
    assert check_overrides(c, run, known) == []
    rendered = render(c, run).overrides
    assert [o for o in rendered if o.partition("=")[0].lstrip("+") == name.lstrip("+")] == [f"{name}=fsdp"]
    compose(PYTHON, rendered)


def test_what_hydra_refuses_is_told_in_its_words(config, run):
    with pytest.raises(SwerlError) as error:
        compose(PYTHON, ["no.such.key=1"])
    assert error.value.problems[0].id == "SWERL-C016" and "no" in error.value.problems[0].message


def test_an_interpreter_without_verl(tmp_path):
    with pytest.raises(SwerlError) as error:
        known_keys(tmp_path / "bin/python", tmp_path)
    assert error.value.problems[0].id == "SWERL-C016"
