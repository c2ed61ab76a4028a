"""From the configuration to the forecast's plan, and how many steps a run has."""

from __future__ import annotations

from swerl.config import RunConfig
from swerl.preflight.forecast import GIB, Plan


def steps_per_epoch(cfg: RunConfig, train_rows: int) -> int:
    """verl drops the last incomplete batch of an epoch."""
    return train_rows // cfg.training.train_batch_size


def total_steps(cfg: RunConfig, train_rows: int) -> int:
    """Training steps of the whole run."""
    wanted = cfg.training.total_steps
    return wanted if wanted is not None else steps_per_epoch(cfg, train_rows) * cfg.training.total_epochs


def plan_of(cfg: RunConfig, *, steps: int | None, gpu_memory_bytes: int | None) -> Plan:
    training, engine = cfg.training, cfg.vllm
    longest = training.max_prompt_length + training.max_response_length
    tokens = (
        training.max_token_len_per_gpu if training.use_dynamic_bsz else -(-longest * training.micro_batch_size_per_gpu // training.sp_size)
    )
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
    )
