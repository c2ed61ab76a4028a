"""The forecast in words: one fact a line, what is estimated marked ``~``."""

from __future__ import annotations

from swerl.facts.memory import Forecast, count, size, trained_parameters
from swerl.forecast.advice import fitting
from swerl.forecast.outlook import Outlook
from swerl.record.words import duration


def render(result: Forecast, outlook: Outlook | None = None) -> str:
    return "\n".join([*memory_lines(result), *(time_lines(outlook) if outlook else [])])


def memory_lines(result: Forecast) -> list[str]:
    shape, plan, engine, trainer, store = result.shape, result.plan, result.engine, result.trainer, result.disk
    about = "" if shape.exact else "~"
    device = "GPU" if plan.kv_cache_bytes is None else "process"
    lines = [
        f"policy            {shape.architecture}, {about}{count(shape.parameters)} parameters"
        + (f", {about}{count(shape.active_parameters)} active, {shape.experts} experts" if shape.is_moe else ""),
        *(
            [f"adapters          rank {plan.lora_rank}, {about}{count(trained_parameters(shape, plan))} trained parameters"]
            if plan.lora_rank
            else []
        ),
        f"trials a step     {plan.prompts_per_step} x {plan.samples_per_prompt} = {result.trials_per_step}, "
        f"{result.updates_per_step} optimizer step(s)",
        f"engine            {engine.replicas} replica(s) of {plan.gen_tp} {device}(s), weights {size(engine.weight_bytes)} a {device}"
        + (f", graphs ~{size(engine.graph_bytes)}" if engine.graph_bytes else ""),
        f"KV cache          {engine.kv_bytes_per_token:,} B a token and {device}" + _kv_text(result),
        f"trainer           ~{size(trainer.peak_bytes)} a {device} at the peak: states {size(trainer.state_bytes)}, "
        f"gathered {size(trainer.gathered_bytes)}, activations ~{size(trainer.activation_bytes + trainer.layer_bytes)}, "
        f"logits ~{size(trainer.logits_bytes)} ({plan.tokens_per_gpu:,} tokens){_beyond(result)}",
        f"checkpoint        {about}{size(store.save_bytes)} a save"
        + (
            f", {store.saves} save(s), at most {size(store.peak_bytes)} on disk at once"
            if store.saves and store.peak_bytes is not None
            else ""
        ),
    ]
    host = result.host
    parts = [("offloaded states", host.offload_bytes), ("sleeping engines", host.engine_bytes), ("object store", host.store_bytes)]
    parts += [("a step's data", host.data_bytes), ("processes", host.process_bytes), ("sandboxes", host.sandbox_bytes)]
    told = ", ".join(f"{name} {size(amount)}" for name, amount in parts if amount)
    return [*lines, f"host memory       ~{size(host.total_bytes)} on the busiest node: {told}"]


def _beyond(result: Forecast) -> str:
    """Said where the forecast is, and not left for the reader to subtract; SWERL-P605 says it on the machine."""
    memory = result.plan.gpu_memory_bytes
    if result.plan.cpu or memory is None or result.trainer.peak_bytes <= memory:
        return ""
    found = [f"{one.key}: {one.now} -> {one.then} (~{size(one.peak_bytes)})" for one in fitting(result)]
    return f"; more than a GPU's {size(memory)}; it would fit with {', or '.join(found) or 'a smaller policy, or more GPUs'}"


def _kv_text(result: Forecast) -> str:
    engine, plan = result.engine, result.plan
    if engine.kv_tokens is None:
        return "; the size of the cache depends on the GPU's memory, which is not known here"
    about = "" if engine.exact else "~"
    longest = plan.prompt_tokens + plan.response_tokens
    return (
        f"; {about}{size(engine.kv_bytes or 0)} = {about}{engine.kv_tokens:,} tokens a replica, "
        f"{about}{engine.full_sequences:.1f} sequences of {longest:,} tokens at once (max_num_seqs {plan.max_num_seqs})"
    )


def time_lines(outlook: Outlook) -> list[str]:
    """Time, cost, bottleneck and the settings that would help most; ranges are those of a small and a large mean trial."""
    low, mid, high = outlook.low, outlook.expected, outlook.high
    shares = sorted(mid.step.phases.items(), key=lambda pair: -pair[1])
    lines = [
        f"a trial           ~{duration(mid.step.trial_s)} ({_range(low.step.trial_s, high.step.trial_s)}), the slowest of a step"
        f" ~{duration(mid.step.slowest_s)}; ~{mid.step.in_engine:.1f} at once in an engine",
        f"a step            ~{duration(mid.step.step_s)} ({_range(low.step.step_s, high.step.step_s)}): "
        + ", ".join(f"{name} {duration(seconds)}" for name, seconds in shares if seconds >= 0.01 * mid.step.step_s),
        f"trials an hour    ~{mid.trials_per_hour:,.0f} ({high.trials_per_hour:,.0f} to {low.trials_per_hour:,.0f})",
    ]
    if mid.wall_s is None:
        lines.append("the run           as many steps as the index has; name it, or give --steps")
    else:
        gpus = outlook.foreseen.plan.gpus
        run = f"the run           {outlook.foreseen.plan.steps} steps, ~{duration(mid.wall_s)} ({_range(low.wall_s, high.wall_s)})"
        if not outlook.foreseen.plan.cpu:
            run += f", ~{mid.gpu_hours:,.0f} GPU hours on {gpus}"
        if outlook.price is not None:
            run += (
                f", ~{mid.gpu_hours * outlook.price:,.0f} ({low.gpu_hours * outlook.price:,.0f} to {high.gpu_hours * outlook.price:,.0f})"
            )
        lines.append(run)
        if outlook.price is not None:
            lines.append(f"                  at {outlook.price:g} a GPU hour")
    plan = outlook.foreseen.plan
    if plan.test_every > 0 and plan.val_tasks is None:
        lines.append("not counted       validations: their index is not here; give --val-tasks")
    lines.append(f"bottleneck        {mid.step.bottleneck} ({shares[0][1] / mid.step.step_s:.0%} of a step), held up by {mid.step.limit}")
    for number, one in enumerate(outlook.advice):
        head = "" if number else "would help most"
        lines.append(
            f"{head:<17} {one.key}: {one.now} -> {one.then}, a step of ~{duration(one.step_s)} (-{one.saved:.0%}); costs {one.costs}"
        )
    lines.append(f"rates             {outlook.rates.source}; trials {outlook.trial.source}" + outlook.hint)
    return lines


def _range(low: float | None, high: float | None) -> str:
    return f"{duration(low or 0)} to {duration(high or 0)}"
