"""SWERL-P006 and what surrounds it: verl's own code on the configuration as the run would give it."""

from __future__ import annotations

from pathlib import Path

import pytest

from swerl.facts import probe
from swerl.preflight import verl_probe
from swerl.record.rundir import RunDir
from swerl.render import render
from swerl.render.verl import plain_name

CORRECTION = "algorithm.rollout_correction."
ACTOR = "actor_rollout_ref.actor."
pytestmark = pytest.mark.train


def refusals(site, sets: dict | None = None) -> dict[str, str]:
    """Key -> verl's words, asked in this process: verl is imported once for all of these tests."""
    config, _ = site.config(sets)
    given = {plain_name(name): value for name, value in config.verl_overrides.items()}
    overrides = render(config, RunDir.at(config.run_dir)).overrides
    return {p["key"]: p["says"] for p in verl_probe.problems(overrides, given, list(config.algorithm.modules))}


def overriding(key: str, value: object) -> dict:
    return {"verl_overrides": {key: value}}


@pytest.mark.slow
@pytest.mark.parametrize(
    "sets",
    [
        {},
        {f"{CORRECTION}rollout_rs": "token_k1", f"{CORRECTION}rollout_rs_threshold": 2.0},  # verl reads 1/2 to 2
        {f"{CORRECTION}rollout_rs": "token_k1,seq_sum_k3", f"{CORRECTION}rollout_rs_threshold": "0.5_2.0,8"},
        {f"{CORRECTION}rollout_is": "token", f"{CORRECTION}rollout_is_threshold": "0.2_5"},
        {"algorithm.use_kl_loss": True},
        overriding(f"{ACTOR}optim.betas", [0.9, 0.95]),
        overriding(f"{ACTOR}ppo_epochs", 2),
        overriding(f"{ACTOR}strategy", "fsdp"),
        overriding("actor_rollout_ref.model.lora_rank", 32),
        overriding("+actor_rollout_ref.rollout.engine_kwargs.vllm.kv_cache_dtype", "fp8"),
        overriding("trainer.balance_batch", None),
    ],
    ids=str,
)
def test_what_verl_takes(sets: dict, site):
    assert refusals(site, sets) == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sets", "key", "says"),
    [
        ({f"{CORRECTION}rollout_rs": "token_k1"}, "algorithm.rollout_correction", "rollout_rs_threshold must be"),
        ({f"{CORRECTION}rollout_rs": "token_k1", f"{CORRECTION}rollout_rs_threshold": 0.5}, "algorithm.rollout_correction", "lower <="),
        ({f"{CORRECTION}rollout_rs": "seq_mean_k3", f"{CORRECTION}rollout_rs_threshold": "1_2"}, "algorithm.rollout_correction", "single"),
        ({f"{CORRECTION}rollout_is": "token", f"{CORRECTION}rollout_is_threshold": "3_2"}, "algorithm.rollout_correction", "lower bound"),
        (overriding(f"{ACTOR}ppo_epochs", "two"), f"{ACTOR}ppo_epochs", "valid integer"),
        (overriding(f"{ACTOR}ppo_epochs", "1,2"), f"{ACTOR}ppo_epochs", "valid integer"),
        (overriding(f"{ACTOR}ppo_epochs", 1.5), f"{ACTOR}ppo_epochs", "valid integer"),
        (overriding(f"{ACTOR}optim.betas", 0.9), f"{ACTOR}optim.betas", "valid array"),
        (overriding("actor_rollout_ref.model.lora_rank", "many"), "actor_rollout_ref.model.lora_rank", "valid integer"),
        (overriding("trainer.balance_batch", "maybe"), "trainer.balance_batch", "valid boolean"),
        (overriding(f"{ACTOR}strategy", "megatron"), "", "megatron"),
        (overriding("+actor_rollout_ref.rollout.engine_kwargs.vllm.max_num_seqz", 3),
         "actor_rollout_ref.rollout.engine_kwargs.vllm.max_num_seqz", "no argument"),
        ({"algorithm.adv_estimator": "gae"}, "algorithm.adv_estimator", "critic"),
        (overriding("critic.enable", True), "algorithm.adv_estimator", "critic"),
        ({"algorithm.adv_estimator": "remax"}, "algorithm.adv_estimator", "reward_baselines"),
        ({"algorithm.adv_estimator": "optimal_token_baseline"}, "algorithm.adv_estimator", "sum_pi_squared"),
        ({"algorithm.adv_estimator": "grppo"}, "algorithm.adv_estimator", "it has gae, gdpo, gpg, grpo"),
        ({"algorithm.policy_loss_mode": "gspoo"}, f"{ACTOR}policy_loss.loss_mode", "it has bypass_mode, cispo"),
        ({"algorithm.policy_loss_mode": "bypass_mode"}, f"{ACTOR}policy_loss.loss_mode", "own defaults"),
        ({"algorithm.modules": ["no_such_module_of_mine"]}, "algorithm.modules", "no_such_module_of_mine cannot be imported"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)  # fmt: skip
def test_what_verl_refuses(sets: dict, key: str, says: str, site):
    found = refusals(site, sets)
    assert set(found) == {key} and says in found[key], found


@pytest.mark.slow
def test_every_registered_name_is_taken_or_refused_by_what_it_lacks(site):
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY, POLICY_LOSS_REGISTRY

    estimators = {str(getattr(name, "value", name)) for name in ADV_ESTIMATOR_REGISTRY}
    lacking = {name for name in estimators if refusals(site, {"algorithm.adv_estimator": name})}
    assert lacking == {"gae", "remax", "gdpo", "optimal_token_baseline", "tir_optimal_token_baseline"}
    assert {name for name in POLICY_LOSS_REGISTRY if refusals(site, {"algorithm.policy_loss_mode": name})} == {"bypass_mode", "dro"}
    assert refusals(site, {"algorithm.policy_loss_mode": "dro", **overriding(f"{ACTOR}policy_loss.dro_beta", 0.5)}) == {}


@pytest.mark.slow
def test_an_estimator_of_ones_own(site, tmp_path: Path, monkeypatch):
    (tmp_path / "my_estimators.py").write_text(
        "from verl.trainer.ppo.core_algos import register_adv_est\n"
        "@register_adv_est('mine')\n"
        "def mine(token_level_rewards, response_mask, index, **kwargs):\n"
        "    return token_level_rewards * response_mask, token_level_rewards\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    sets = {"algorithm.adv_estimator": "mine"}
    assert "does not know 'mine'" in refusals(site, sets)["algorithm.adv_estimator"]
    assert refusals(site, {**sets, "algorithm.modules": ["my_estimators"]}) == {}


def test_the_report_names_the_key_that_was_written(site, monkeypatch):
    """One real question in the other interpreter; its answer does not depend on where the site lies, and is asked for once."""
    monkeypatch.setattr(probe, "KEPT", site.root / "probes")
    [problem] = site.preflight({f"{CORRECTION}rollout_rs": "token_k1"}, only=["SWERL-P006"]).fatal
    assert problem.id == "SWERL-P006" and problem.message.startswith(f"{CORRECTION}rollout_rs_threshold: ")
    [kept] = (site.root / "probes").iterdir()
    assert str(site.root) not in kept.read_text()
    monkeypatch.setattr(probe, "_run", None)
    assert site.preflight(
        {f"{CORRECTION}rollout_rs": "token_k1", "experiment.runs_dir": str(site.root / "elsewhere")}, only=["SWERL-P006"]
    ).fatal


def test_a_value_in_verl_overrides_is_named_with_its_place(site):
    [problem] = site.preflight(overriding(f"{ACTOR}ppo_epochs", "two"), only=["SWERL-P006"]).fatal
    assert problem.message.startswith("`verl_overrides.actor_rollout_ref.actor.ppo_epochs`: 'two'") and problem.where == "--set"


def test_names_are_mended_before_values_are_looked_at(site):
    report = site.preflight(overriding(f"{ACTOR}ppo_epoch", "two"), only=["SWERL-P005", "SWERL-P006"])
    assert report.ids == {"SWERL-C015"}


@pytest.mark.parametrize(
    ("name", "id", "says"),
    [
        ("trainer.use_v1", "SWERL-C012", "V1 trainers"),
        ("model_engine", "SWERL-C012", "not in the lock"),
        ("critic.optim.lr", "SWERL-C012", "no critic"),
        ("reward.custom_reward_function.path", "SWERL-C012", "reward.fn"),
        ("trainer.v1.sampler.custom_sampler.name", "SWERL-C012", "replay buffer"),
        ("~trainer.balance_batch", "SWERL-C015", "takes away"),
    ],
)
def test_entries_that_nothing_would_read(name: str, id: str, says: str, site):
    [problem] = site.preflight(overriding(name, None), only=["SWERL-P005"]).fatal
    assert problem.id == id and says in problem.message


def test_a_key_given_twice_is_said_once(site):
    twice = {"verl_overrides": {f"{ACTOR}ppo_epochs": 2, f"++{ACTOR}ppo_epochs": 3}}
    [problem] = site.preflight(twice, only=["SWERL-P005"]).fatal
    assert problem.id == "SWERL-C015" and "more than once" in problem.message


def test_without_the_environment_nothing_is_claimed(site):
    [result] = site.preflight({"environment.venv_path": str(site.root / "none")}, only=["SWERL-P006"]).results
    assert result.status == "not applicable"


def test_a_probe_that_dies_or_hangs_is_no_verdict(tmp_path: Path, monkeypatch):
    import sys

    monkeypatch.setattr(probe, "KEPT", tmp_path / "kept")
    program = tmp_path / "p.py"
    for text, error, words in (
        ("import sys; sys.exit('no such thing')", probe.ProbeFailed, "no such thing"),
        ("import time; time.sleep(60)", probe.ProbeHung, "within 0.5 s"),
    ):
        program.write_text(text)
        with pytest.raises(error, match=words):
            probe.asked(Path(sys.executable), program, {}, timeout_s=0.5 if error is probe.ProbeHung else 20)
    assert not (tmp_path / "kept").exists()
    program.write_text("import json, sys; print('noise'); print(json.dumps(json.load(sys.stdin)['a'] + 1))")
    assert probe.asked(Path(sys.executable), program, {"a": 1}, timeout_s=20) == 2
    monkeypatch.setattr(probe, "_run", None)
    assert probe.asked(Path(sys.executable), program, {"a": 1}, timeout_s=20) == 2
    with pytest.raises(probe.ProbeFailed, match="no Python environment"):
        probe.asked(tmp_path / "bin" / "python", program, {}, timeout_s=1)


def test_weights_beside_bypass_mode_are_refused(site):
    for name in ("rollout_is", "rollout_rs"):
        sets = {f"{CORRECTION}{name}": {"rollout_is": "token", "rollout_rs": "token_k1"}[name], f"{CORRECTION}bypass_mode": True}
        [problem] = site.preflight(sets, only=["SWERL-P303"]).fatal
        assert name in problem.message and f"{name} to null" in problem.remedy
    assert not site.preflight({f"{CORRECTION}bypass_mode": True}, only=["SWERL-P303"]).problems


def test_every_path_needs_a_loss_that_weighs_trials(site):
    assert not site.preflight({"capture.paths": "all"}, only=["SWERL-P310"]).problems
    for name, value in (("adv_estimator", "rloo"), ("loss_agg_mode", "token-mean"), ("use_kl_loss", True), ("entropy_coeff", 0.1)):
        [problem] = site.preflight({"capture.paths": "all", f"algorithm.{name}": value}, only=["SWERL-P310"]).fatal
        assert f"algorithm.{name}" in problem.message


def test_an_engine_that_is_not_installed(site):
    for strategy, good in (("megatron", False), ("veomni", False), ("fsdp", True)):
        report = site.preflight(overriding(f"{ACTOR}strategy", strategy), only=["SWERL-P308"])
        assert report.ok is good, report.render()


def test_modules_of_ones_own_reach_every_process(site):
    from swerl.render import public_environment

    for device, wanted in (("cpu", "swerl.trainer.cpu,mine"), ("cuda", "mine")):
        config, _ = site.config({"infrastructure.device": device, "algorithm.modules": ["mine"]})
        assert public_environment(config, RunDir.at("/r"))["VERL_USE_EXTERNAL_MODULES"] == wanted
    config, _ = site.config({"infrastructure.device": "cuda"})
    assert "VERL_USE_EXTERNAL_MODULES" not in public_environment(config, RunDir.at("/r"))
