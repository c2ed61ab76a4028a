"""verl's configuration, from ours. ``x-verl`` in the schema names these keys; tests compose the result in verl and compare.

Three kinds of entries: *ours* follow a key of the configuration; *wiring* joins verl to the rest of swerl; *tuning* are values that suit a
device and that `verl_overrides` may replace. The first two it may not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from swerl.config.runconfig import RunConfig
from swerl.record.rundir import RunDir
from swerl.render.environment import public_environment
from swerl.render.hydra import argument

ACTOR = "actor_rollout_ref.actor"
ROLLOUT = "actor_rollout_ref.rollout"
MODEL = "actor_rollout_ref.model"
REF = "actor_rollout_ref.ref"
_PRECISION = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}


def verl_overrides(config: RunConfig, run: RunDir) -> list[str]:
    """Every argument for composing verl's ``ppo_trainer`` configuration, in a fixed order; a user's ``verl_overrides`` come last."""
    ours = {**_ours(config), **_wiring(config, run)}
    tuning = {name: value for name, value in _tuning(config).items() if plain_name(name) not in map(plain_name, config.verl_overrides)}
    return [argument(name, value) for name, value in {**ours, **tuning, **config.verl_overrides}.items()]


def reserved(config: RunConfig, run: RunDir) -> frozenset[str]:
    """Names that `verl_overrides` may not set, because a key of ours, or swerl itself, does."""
    names = [*_ours(config), *_wiring(config, run), "trainer.resume_mode", "trainer.resume_from_path", "swerl"]
    return frozenset(plain_name(name) for name in names)


def plain_name(name: str) -> str:
    """Without Hydra's prefix."""
    return name.lstrip("+~")


def _ours(c: RunConfig) -> dict[str, Any]:
    return {**_data(c), **_policy(c), **_actor(c), **_rollout(c), **_algorithm(c), **_trainer(c), **_ray(c)}


def _data(c: RunConfig) -> dict[str, Any]:
    return {
        "data.train_files": str(c.data.train_index),
        "data.val_files": str(c.data.val_index),
        "data.seed": c.data.seed,
        "data.train_batch_size": c.training.train_batch_size,
        "data.val_batch_size": c.training.val_batch_size,
        "data.max_prompt_length": c.training.max_prompt_length,
        "data.max_response_length": c.training.max_response_length,
    }


def _policy(c: RunConfig) -> dict[str, Any]:
    template = {} if c.model.chat_template is None else {f"{MODEL}.custom_chat_template": _template_text(c.model.chat_template)}
    return {
        f"{MODEL}.path": str(c.model.model_path),
        "critic.model.path": str(c.model.model_path),
        **template,
        f"+{MODEL}.override_config.attn_implementation": c.training.attention,
        f"{MODEL}.use_remove_padding": c.training.use_remove_padding,
        f"{MODEL}.enable_gradient_checkpointing": c.training.gradient_checkpointing,
        **_adapters(c),
    }


def _adapters(c: RunConfig) -> dict[str, Any]:
    """verl reads adapters from several places; those that are not ours are held at nothing, so that no second word is said on them.
    Weights that are not trained are held in the type they are computed in: no update of them could be lost to rounding."""
    lora = c.model.lora
    frozen = {f"{ACTOR}.fsdp_config.model_dtype": _PRECISION[c.training.param_dtype]} if lora.rank else {}
    return {
        f"{MODEL}.lora_rank": lora.rank,
        f"{MODEL}.lora_alpha": lora.alpha,
        f"{MODEL}.target_modules": "all-linear" if lora.targets == ("all-linear",) else list(lora.targets),
        f"{MODEL}.exclude_modules": list(lora.exclude) or None,
        f"{MODEL}.lora_adapter_path": None,
        f"+{MODEL}.target_parameters": None,
        f"{MODEL}.lora.rank": 0,
        f"{MODEL}.lora.merge": False,
        f"+{ACTOR}.checkpoint.save_lora_only": lora.rank > 0,
        **frozen,
    }


def _template_text(path: Path) -> str:
    """The template itself: verl takes text. A path that cannot be read is preflight's finding, and is shown as the path here."""
    return path.read_text(encoding="utf-8") if path.is_file() else str(path)


def _actor(c: RunConfig) -> dict[str, Any]:
    a, t = c.algorithm, c.training
    precision = {"param_dtype": _PRECISION[t.param_dtype], "reduce_dtype": "fp32", "buffer_dtype": "fp32"}
    contents = ["model", "optimizer", "extra", *(["hf_model"] if t.save_hf else [])]
    return {
        f"{ACTOR}.ppo_mini_batch_size": t.train_prompt_mini_batch_size,
        f"{ACTOR}.ppo_micro_batch_size_per_gpu": t.micro_batch_size_per_gpu,
        f"{ACTOR}.use_dynamic_bsz": t.use_dynamic_bsz,
        f"{ACTOR}.ppo_max_token_len_per_gpu": t.max_token_len_per_gpu,
        f"{ACTOR}.ulysses_sequence_parallel_size": t.sp_size,
        f"{ACTOR}.data_loader_seed": c.data.seed,
        f"{ACTOR}.fsdp_config.seed": c.data.seed,
        f"{ACTOR}.fsdp_config.param_offload": t.actor_offload,
        f"{ACTOR}.fsdp_config.optimizer_offload": t.actor_offload,
        f"+{ACTOR}.fsdp_config.mixed_precision": precision,
        f"{REF}.fsdp_config.param_offload": t.ref_offload,
        f"+{REF}.fsdp_config.mixed_precision": precision,
        f"{REF}.log_prob_micro_batch_size_per_gpu": t.log_prob_micro_batch_size_per_gpu,
        f"{ACTOR}.optim.lr": a.learning_rate,
        f"{ACTOR}.optim.lr_warmup_steps": a.lr_warmup_steps,
        f"{ACTOR}.optim.lr_scheduler_type": t.lr_scheduler,
        f"{ACTOR}.optim.weight_decay": a.weight_decay,
        f"{ACTOR}.optim.clip_grad": a.grad_clip,
        f"{ACTOR}.grad_clip": a.grad_clip,
        f"{ACTOR}.policy_loss.loss_mode": a.policy_loss_mode,
        f"{ACTOR}.loss_agg_mode": a.loss_agg_mode,
        f"{ACTOR}.clip_ratio_low": a.clip_ratio_low,
        f"{ACTOR}.clip_ratio_high": a.clip_ratio_high,
        f"{ACTOR}.entropy_coeff": a.entropy_coeff,
        f"{ACTOR}.use_kl_loss": a.use_kl_loss,
        f"{ACTOR}.kl_loss_coef": a.kl_loss_coef,
        f"{ACTOR}.kl_loss_type": a.kl_loss_type,
        f"{ACTOR}.checkpoint.save_contents": contents,
    }


def _rollout(c: RunConfig) -> dict[str, Any]:
    a, v, t = c.algorithm, c.vllm, c.training
    block = {} if v.block_size is None else {f"+{ROLLOUT}.engine_kwargs.vllm.block_size": v.block_size}
    return {
        f"{ROLLOUT}.name": "vllm",
        f"{ROLLOUT}.n": t.n_resp_per_prompt,
        f"{ROLLOUT}.tensor_model_parallel_size": v.gen_tp,
        f"{ROLLOUT}.dtype": v.dtype,
        f"{ROLLOUT}.seed": v.seed,
        f"{ROLLOUT}.max_model_len": v.max_model_length,
        f"{ROLLOUT}.max_num_seqs": v.max_num_seqs,
        f"{ROLLOUT}.max_num_batched_tokens": v.max_num_batched_tokens,
        f"{ROLLOUT}.gpu_memory_utilization": v.gpu_memory_utilization,
        f"{ROLLOUT}.enforce_eager": v.enforce_eager,
        f"{ROLLOUT}.enable_chunked_prefill": v.enable_chunked_prefill,
        f"+{ROLLOUT}.engine_kwargs.vllm.served_model_name": c.model.served_model_name,
        **block,
        f"{ROLLOUT}.log_prob_micro_batch_size_per_gpu": t.log_prob_micro_batch_size_per_gpu,
        f"{ROLLOUT}.temperature": a.temperature,
        f"{ROLLOUT}.top_p": a.top_p,
        f"{ROLLOUT}.top_k": a.top_k,
        f"{ROLLOUT}.val_kwargs.do_sample": a.val_do_sample,
        f"{ROLLOUT}.val_kwargs.temperature": a.val_temperature,
        f"{ROLLOUT}.val_kwargs.top_p": a.val_top_p,
        f"{ROLLOUT}.val_kwargs.top_k": a.val_top_k,
        f"{ROLLOUT}.val_kwargs.n": t.val_n,
    }


def _algorithm(c: RunConfig) -> dict[str, Any]:
    a, correction = c.algorithm, c.algorithm.rollout_correction
    return {
        "algorithm.adv_estimator": a.adv_estimator,
        "algorithm.norm_adv_by_std_in_grpo": a.norm_adv_by_std,
        "algorithm.filter_groups.enable": a.filter_groups.enable,
        "algorithm.filter_groups.max_inflight_gen_batches": a.filter_groups.max_inflight_batches,
        "algorithm.rollout_correction.rollout_is": correction.rollout_is,
        "algorithm.rollout_correction.rollout_is_threshold": correction.rollout_is_threshold,
        "algorithm.rollout_correction.rollout_rs": correction.rollout_rs,
        "algorithm.rollout_correction.rollout_rs_threshold": correction.rollout_rs_threshold,
        "algorithm.rollout_correction.bypass_mode": correction.bypass_mode,
    }


def _trainer(c: RunConfig) -> dict[str, Any]:
    t = c.training
    loggers = [name for name in c.experiment.logger if name != "wandb" or c.credentials.wandb_mode != "disabled"]
    return {
        "trainer.device": c.infrastructure.device,
        "trainer.nnodes": c.infrastructure.nnodes,
        "trainer.n_gpus_per_node": c.infrastructure.ngpus_per_node,
        "trainer.project_name": c.experiment.project_name,
        "trainer.experiment_name": c.experiment.exp_name,
        "trainer.logger": loggers,
        "trainer.total_epochs": t.total_epochs,
        "trainer.total_training_steps": t.total_steps,
        "trainer.save_freq": t.save_freq,
        "trainer.test_freq": t.test_freq,
        "trainer.val_before_train": t.val_before_train,
        "trainer.v1.trainer_mode": t.mode,
    }


def _ray(c: RunConfig) -> dict[str, Any]:
    """How Ray starts: inside the trainer on one machine; on several it joins the cluster that `ray.ray_head` made."""
    i = c.infrastructure
    if i.nnodes > 1:
        return {"+ray_kwargs.ray_init.address": f"{i.node0_ip or '127.0.0.1'}:{i.ray_port}"}
    dashboard = {"+ray_kwargs.ray_init.include_dashboard": i.device == "cuda"}
    if i.device == "cuda":
        dashboard |= {"+ray_kwargs.ray_init.dashboard_host": "127.0.0.1", "+ray_kwargs.ray_init.dashboard_port": i.ray_dashboard_port}
    return {
        "ray_kwargs.ray_init.num_cpus": i.ray_num_cpus,
        **({"+ray_kwargs.ray_init.num_gpus": i.ngpus_per_node} if i.device == "cpu" else {}),
        **({} if i.object_store_mb is None else {"+ray_kwargs.ray_init.object_store_memory": i.object_store_mb * 1_000_000}),
        **dashboard,
    }


def _wiring(c: RunConfig, run: RunDir) -> dict[str, Any]:
    one_machine = c.infrastructure.nnodes == 1
    return {
        f"{ROLLOUT}.calculate_log_probs": True,  # no token is trained without the log-probability it was sampled with
        f"{ROLLOUT}.agent.num_workers": c.infrastructure.nnodes,
        f"{ROLLOUT}.agent.agent_loop_config_path": str(run.render / "agent_loop.yaml"),
        f"{ROLLOUT}.agent.default_agent_loop": "swerl",
        f"+{ROLLOUT}.agent.agent_loop_manager_class": "swerl.trainer.manager.SwerlAgentLoopManager",
        f"{MODEL}.external_lib": "swerl.trainer.engine",
        "data.return_raw_chat": True,
        "trainer.default_local_dir": str(run.checkpoints),
        "trainer.v1.sampler.sync_refill_failed_groups": True,  # a group without rows is replaced, not waited for
        **({"+ray_kwargs.ray_init._temp_dir": str(run.ray)} if one_machine else {}),
        "+ray_kwargs.ray_init.runtime_env.env_vars": public_environment(c, run),
        "+swerl.run_dir": str(run.root),
        "+swerl.bind_host": "127.0.0.1" if one_machine else c.infrastructure.bind_host,
        "+swerl.max_checkpoints": c.training.max_checkpoints,
    }


def _tuning(c: RunConfig) -> dict[str, Any]:
    """Values that suit the device. The engines' statistics are on, because their rate lines are a log of the run."""
    both = {
        f"{ACTOR}.strategy": "fsdp2",
        f"{ROLLOUT}.disable_log_stats": False,
        "data.dataloader_num_workers": 0,
        "reward.num_workers": 1,  # rewards come with the trials
    }
    if c.infrastructure.device == "cuda":
        # Log-probabilities and entropy by chunks of hidden states (`trainer.logprobs`; the name keeps verl from its own patch): the logits
        # of all tokens are never in memory, and verl's loop over token rows in Python, which it takes without flash-attn 2, is not either.
        return {**both, f"{MODEL}.use_fused_kernels": True, f"{MODEL}.fused_kernel_options.impl_backend": "swerl"}
    return {
        **both,
        f"{ACTOR}.use_torch_compile": False,
        f"{ACTOR}.fsdp_config.use_torch_compile": False,
        f"{REF}.fsdp_config.use_torch_compile": False,
        f"{ROLLOUT}.load_format": "auto",
        f"{ROLLOUT}.free_cache_engine": False,
        f"+{ROLLOUT}.enable_sleep_mode": False,
        f"{ROLLOUT}.checkpoint_engine.update_weights_bucket_megabytes": 64,  # more than the largest tensor, less than /dev/shm
        "transfer_queue.backend.SimpleStorage.num_data_storage_units": 1,
        "transfer_queue.backend.SimpleStorage.total_storage_size": 10_000,
    }
