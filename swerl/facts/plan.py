"""From the configuration to the forecast's plan, and how many steps a run has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from swerl.config import RunConfig
from swerl.facts.indexes import IndexUnreadable, row_count
from swerl.facts.memory import GIB, Plan
from swerl.facts.sandbox import backend


def steps_per_epoch(cfg: RunConfig, train_rows: int) -> int:
    """verl drops the last incomplete batch of an epoch."""
    return train_rows // cfg.training.train_batch_size


def total_steps(cfg: RunConfig, train_rows: int) -> int:
    """Training steps of the whole run."""
    wanted = cfg.training.total_steps
    return wanted if wanted is not None else steps_per_epoch(cfg, train_rows) * cfg.training.total_epochs


def known_steps(cfg: RunConfig, count: Callable[[Path], int] = row_count) -> int | None:
    """`total_steps`, or None where they depend on an index that cannot be read. ``count`` says how many rows an index has."""
    if cfg.training.total_steps is not None:
        return cfg.training.total_steps
    try:
        return total_steps(cfg, count(cfg.data.train_index))
    except IndexUnreadable:
        return None


def plan_of(cfg: RunConfig, *, steps: int | None, gpu_memory_bytes: int | None, val_tasks: int | None = None) -> Plan:
    training, engine = cfg.training, cfg.vllm
    longest = training.max_prompt_length + training.max_response_length
    tokens = (
        training.max_token_len_per_gpu if training.use_dynamic_bsz else -(-longest * training.micro_batch_size_per_gpu // training.sp_size)
    )
    local = backend(cfg.harbor_agent) == "bubblewrap" or (backend(cfg.harbor_agent) == "docker" and not cfg.harbor_agent.docker_host)
    on_cpu = cfg.infrastructure.device == "cpu"
    return Plan(
        gpus=cfg.infrastructure.nnodes * cfg.infrastructure.ngpus_per_node,
        gpu_memory_bytes=gpu_memory_bytes,
        gen_tp=engine.gen_tp,
        gpu_memory_utilization=engine.gpu_memory_utilization,
        rollout_dtype=engine.dtype,
        max_num_seqs=engine.max_num_seqs,
        max_model_length=engine.max_model_length,
        max_batched_tokens=engine.max_num_batched_tokens,
        kv_cache_bytes=engine.kv_cache_gb * GIB if on_cpu else None,
        prompts_per_step=training.train_batch_size,
        samples_per_prompt=training.n_resp_per_prompt,
        mini_batch_prompts=training.train_prompt_mini_batch_size,
        prompt_tokens=training.max_prompt_length,
        response_tokens=training.max_response_length,
        tokens_per_gpu=tokens,
        sequence_parallel=training.sp_size,
        param_dtype=training.param_dtype,
        gradient_checkpointing=training.gradient_checkpointing,
        flash_attention=training.attention.startswith("flash_attention"),
        entropy=cfg.algorithm.entropy_coeff > 0,
        steps=steps,
        save_every=training.save_freq,
        keep_checkpoints=training.max_checkpoints,
        save_hf=training.save_hf,
        live_trials=cfg.harbor_runtime.num_workers,
        cpu=on_cpu,
        nodes=cfg.infrastructure.nnodes,
        asynchronous=training.mode != "sync",
        enforce_eager=engine.enforce_eager,
        actor_offload=training.actor_offload and not on_cpu,
        reference_policy=cfg.algorithm.use_kl_loss,
        remove_padding=training.use_remove_padding,
        dynamic_batches=training.use_dynamic_bsz,
        max_turns=cfg.harbor_agent.max_iterations,
        trial_limit_s=float(cfg.harbor_runtime.trial_hard_timeout_sec),
        tail_kill_target=cfg.harbor_runtime.tail_kill_target,
        tail_grace_s=float(cfg.harbor_runtime.tail_kill_grace_sec),
        test_every=training.test_freq,
        val_before=training.val_before_train,
        val_tasks=val_tasks,
        val_samples=training.val_n,
        sandbox_bytes=(cfg.harbor_agent.environment_override_memory_mb or 0) << 20 if local else 0,
        lora_rank=cfg.model.lora.rank,
        lora_targets=cfg.model.lora.targets,
        lora_exclude=cfg.model.lora.exclude,
        object_store_bytes=(cfg.infrastructure.object_store_mb or 2048) << 20,
    )
