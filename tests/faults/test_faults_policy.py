"""Faults of the checkpoint and of the numbers around it: J1, J2, J14, J27, J28, J33, J34, J35, J44, J49, J52."""

from __future__ import annotations

import json


def test_j1_tool_parser_of_another_format(site, site_module):
    """The chat template writes tagged calls, the profile names the parser of JSON calls."""
    site_module.write_policy(site.model, template=site_module.TAGS)
    report = site.preflight(only=["SWERL-P109"])
    assert report.ids == {"SWERL-P109"} and "qwen3_coder" in report.fatal[0].message
    assert site.preflight({"model.tool_parser": "qwen3_coder"}, only=["SWERL-P109"]).ok


def test_j2_gpus_without_a_replica(site):
    """Three GPUs a replica on eight: two GPUs serve nothing."""
    assert site.preflight({"vllm.gen_tp": 3, "infrastructure.ngpus_per_node": 8}, only=["SWERL-P103"]).ids == {"SWERL-P103"}


def test_j14_gen_tp_does_not_divide_kv_heads(site, site_module):
    """The KV heads stand inside text_config, where a look at the top level finds nothing."""
    wrapped = {"architectures": ["Wrapped"], "model_type": "wrapped", "text_config": {**site_module.SHAPE, "num_key_value_heads": 2}}
    (site.model / "config.json").write_text(json.dumps(wrapped))
    report = site.preflight({"vllm.gen_tp": 4, "infrastructure.ngpus_per_node": 4}, only=["SWERL-P102"])
    assert report.ids == {"SWERL-P102"} and "num_key_value_heads 2" in report.fatal[0].message


def test_j27_schedule_that_ends_at_zero(site):
    """A cosine schedule with no number of steps: verl reads -1 and the rate is 0 from the start."""
    report = site.preflight({"training.lr_scheduler": "cosine", "training.total_steps": None}, only=["SWERL-P301"])
    assert report.ids == {"SWERL-P301"} and not report.ok
    assert site.preflight({"training.lr_scheduler": "cosine"}, only=["SWERL-P301"]).ok


def test_j28_importance_weights_over_long_sequences(site):
    """Sequence-level importance weights over responses of thousands of tokens."""
    sets = {"algorithm.rollout_correction.rollout_is": "sequence", "training.max_response_length": 68000, "vllm.max_model_length": 128000}
    assert site.preflight(sets, only=["SWERL-P303"]).ids == {"SWERL-P303"}


def test_j33_veomni_with_fused_kernels(site):
    """An engine and a switch that fail together with a storage of size 0."""
    overrides = {"actor_rollout_ref.actor.strategy": "veomni", "actor_rollout_ref.model.use_fused_kernels": True}
    report = site.preflight({"verl_overrides": overrides}, only=["SWERL-P308"])
    assert report.ids == {"SWERL-P308"} and "use_fused_kernels" in report.fatal[0].message


def test_j34_router_replay_for_a_dense_policy(site):
    """Router replay switched on where config.json shows no experts."""
    report = site.preflight({"verl_overrides": {"actor_rollout_ref.actor.router_replay.mode": "R3"}}, only=["SWERL-P108"])
    assert report.ids == {"SWERL-P108"} and not report.ok


def test_j35_mixture_without_router_replay(site, site_module):
    """config.json shows experts; nothing makes trainer and engine choose the same ones. The remedy names both ways out."""
    mixture = {**site_module.SHAPE, "model_type": "qwen3_moe", "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    (site.model / "config.json").write_text(json.dumps(mixture))
    report = site.preflight(only=["SWERL-P108"])
    assert report.ids == {"SWERL-P108"} and "router_replay" in report.problems[0].remedy and "rollout_is" in report.problems[0].remedy
    assert site.preflight({"algorithm.rollout_correction.rollout_is": "token"}, only=["SWERL-P108"]).ids == set()


def test_j44_merged_checkpoint_with_other_names(site, site_module):
    """A mixture merged with fused experts: the file is whole, its tensors are not those that config.json describes."""
    sizes = {name: count for name, count in site_module.tensors(site_module.SHAPE).items() if "mlp" not in name}
    site_module.write_safetensors(site.model / "model.safetensors", sizes)
    report = site.preflight(only=["SWERL-P104"])
    assert report.ids == {"SWERL-P104"} and "elements" in report.fatal[0].message


def test_j49_more_trials_than_the_cache_holds(site, site_module):
    """Prefixes are thrown out late in a step: 512 long trials on a cache of a few million tokens."""
    site_module.write_policy(site.model, {**site_module.SHAPE, "num_key_value_heads": 4, "max_position_embeddings": 131072})
    sets = {"harbor_runtime.num_workers": 512, "vllm.max_model_length": 128000, "training.max_response_length": 100000}
    assert site.preflight(sets, only=["SWERL-P604"]).ids == {"SWERL-P604"}


def test_j52_single_samples_without_token_weights(site):
    """One sample a prompt with an estimator that compares samples has no advantage; with another one it needs token weights."""
    assert site.preflight({"training.n_resp_per_prompt": 1}, only=["SWERL-P204"]).fatal
    alone = {"training.n_resp_per_prompt": 1, "algorithm.adv_estimator": "reinforce_plus_plus"}
    assert site.preflight(alone, only=["SWERL-P204"]).ids == {"SWERL-P204"}
    assert site.preflight({**alone, "algorithm.rollout_correction.rollout_is": "token"}, only=["SWERL-P204"]).ids == set()
