"""The Run Configuration Summary: what is about to run, on one screen, in the words of the configuration."""

from __future__ import annotations

from swerl.facts.memory import Forecast, forecast
from swerl.facts.plan import plan_of
from swerl.preflight.check import NotApplicable
from swerl.preflight.context import Context
from swerl.preflight.gpus import gpu_memory


def forecast_of(ctx: Context) -> Forecast | None:
    """The forecast of this configuration; None where the policy cannot be read."""
    try:
        return forecast(ctx.shape(), plan_of(ctx.cfg, steps=ctx.steps(), gpu_memory_bytes=gpu_memory(ctx), val_tasks=ctx.val_tasks()))
    except NotApplicable:
        return None


def summary(ctx: Context) -> tuple[tuple[str, str], ...]:
    """Label and value in reading order."""
    cfg = ctx.cfg
    t, a, v, h = cfg.training, cfg.algorithm, cfg.vllm, cfg.harbor_agent
    trials = t.train_batch_size * t.n_resp_per_prompt
    steps = ctx.steps()
    length = f"{t.total_epochs} epoch(s), {'unknown number of' if steps is None else steps} steps"
    correction = a.rollout_correction.rollout_is
    return (
        ("run", f"{cfg.run_id} in {cfg.run_dir}"),
        ("model", f"{cfg.model.model_path} as {cfg.model.served_model_name}"),
        ("parser", f"{cfg.model.tool_parser}, reasoning {cfg.model.reasoning_parser or 'none'}"),
        ("data", f"{cfg.data.train_index.name} | {cfg.data.val_index.name} in {cfg.data.data_dir}"),
        ("devices", f"{cfg.infrastructure.nnodes} node(s) x {cfg.infrastructure.ngpus_per_node} {cfg.infrastructure.device}"),
        ("agent", f"{h.agent_name or h.agent_import_path}, {h.max_iterations} turns, {h.override_timeout_sec or h.max_timeout_sec} s"),
        ("sandbox", f"{ctx.backend}, {cfg.harbor_runtime.num_workers} at once, {h.environment_override_memory_mb or 'no limit of'} MB"),
        (
            "batch",
            f"{t.train_batch_size} x {t.n_resp_per_prompt} = {trials} trials a step, mini-batch {t.train_prompt_mini_batch_size} prompts",
        ),
        ("context", f"{t.max_prompt_length:,} + {t.max_response_length:,} of {v.max_model_length:,} tokens"),
        ("vLLM", f"tensor parallel {v.gen_tp}, {v.dtype}, memory {v.gpu_memory_utilization:g}, {v.max_num_seqs} sequences"),
        (
            "algorithm",
            f"{a.adv_estimator}, {a.policy_loss_mode}, lr {a.learning_rate:g} {t.lr_scheduler},"
            f" clip {a.clip_ratio_low:g}/{a.clip_ratio_high:g}",
        ),
        ("correction", f"importance weights {correction}" if correction else "none"),
        ("length", f"{length}, {t.mode}"),
        ("save, validate", f"every {t.save_freq} | every {t.test_freq}, {t.val_n} sample(s) of each task"),
        ("trackers", f"{', '.join(cfg.experiment.logger)}; W&B {cfg.credentials.wandb_mode}"),
    )
