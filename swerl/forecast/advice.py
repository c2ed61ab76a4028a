"""Which single settings would make the trainer fit, and which would shorten a step most: each is tried on the forecast itself, and those
that shorten it are kept only if the memory still fits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from swerl.facts.memory import Forecast, Plan, forecast, size
from swerl.forecast.rates import Rates, Trial
from swerl.forecast.timing import step_time

WORTH = 0.02  # share of a step below which a setting is not worth mentioning


@dataclass(frozen=True, slots=True)
class Advice:
    """``key`` from ``now`` to ``then`` makes a step ``step_s`` long, ``saved`` (a share) shorter; ``costs`` is what it takes in return."""

    key: str
    now: str
    then: str
    step_s: float
    saved: float
    costs: str


@dataclass(frozen=True, slots=True)
class Fit:
    """``key`` from ``now`` to ``then`` brings the trainer's peak down to ``peak_bytes``, which a GPU has."""

    key: str
    now: str
    then: str
    peak_bytes: int


def fitting(foreseen: Forecast) -> list[Fit]:
    """Settings by which a trainer that exceeds its GPU would fit, those that change least first; empty where it fits already, and where
    nothing single helps."""
    memory = foreseen.plan.gpu_memory_bytes
    if foreseen.plan.cpu or memory is None or foreseen.trainer.peak_bytes <= memory:
        return []
    found: dict[str, Fit] = {}
    for key, now, then, plan in _smaller(foreseen):
        peak = forecast(foreseen.shape, plan).trainer.peak_bytes
        if peak <= memory:
            found.setdefault(key, Fit(key, now, then, peak))
    return list(found.values())


def _smaller(foreseen: Forecast) -> Iterator[tuple[str, str, str, Plan]]:
    plan, shape = foreseen.plan, foreseen.shape
    longest, whole = plan.prompt_tokens + plan.response_tokens, plan.tokens_per_gpu * plan.sequence_parallel
    if not plan.gradient_checkpointing:
        yield "training.gradient_checkpointing", "false", "true", replace(plan, gradient_checkpointing=True)
    if not plan.dynamic_batches:
        for by in (2, 4, 8, 16):
            if (micro := whole // longest // by) >= 1:
                fewer = replace(plan, tokens_per_gpu=-(-longest * micro // plan.sequence_parallel))
                yield "training.micro_batch_size_per_gpu", str(whole // longest), str(micro), fewer
    elif whole > longest:
        least = -(-longest // plan.sequence_parallel)
        yield "training.max_token_len_per_gpu", str(plan.tokens_per_gpu), str(least), replace(plan, tokens_per_gpu=least)
    splits = plan.flash_attention and plan.remove_padding and not shape.is_hybrid
    for by in (2, 4, 8):
        parallel = plan.sequence_parallel * by
        heads = shape.heads % parallel == 0 and (shape.kv_heads % parallel == 0 or parallel % shape.kv_heads == 0)
        if splits and heads and plan.gpus // plan.nodes % parallel == 0:
            smaller = replace(plan, sequence_parallel=parallel, tokens_per_gpu=-(-whole // parallel))
            yield "training.sp_size", str(plan.sequence_parallel), str(parallel), smaller
    for by in (2, 4, 8):
        more = replace(plan, nodes=by * plan.nodes, gpus=by * plan.gpus)
        yield "infrastructure.nnodes", str(plan.nodes), str(more.nodes), more
    for by in (2, 4):
        response = plan.response_tokens // by
        shorter = replace(plan, response_tokens=response, tokens_per_gpu=plan.tokens_per_gpu * (plan.prompt_tokens + response) // longest)
        yield "training.max_response_length", str(plan.response_tokens), str(response), shorter


def advise(foreseen: Forecast, rates: Rates, trial: Trial, count: int = 3) -> list[Advice]:
    """The best ``count``, each by itself, best first."""
    before = step_time(foreseen, rates, trial).step_s
    found = []
    for key, now, then, plan, costs in _settings(foreseen.plan, foreseen.trials_per_step):
        other = forecast(foreseen.shape, plan)
        after = step_time(other, rates, trial).step_s
        if _fits(other, foreseen) and (before - after) / before > WORTH:
            found.append(Advice(key, now, then, after, (before - after) / before, costs))
    best: dict[str, Advice] = {}
    for one in sorted(found, key=lambda a: -a.saved):
        best.setdefault(one.key, one)
    return list(best.values())[:count]


def _settings(plan: Plan, trials: int) -> Iterator[tuple[str, str, str, Plan, str]]:
    """Key, value now, value then, the plan with it, what it costs."""
    if not plan.cpu:  # on a CPU, trials, engine and trainer share the same processors: more of anything at once gains nothing
        yield from _of_gpus(plan, trials)
    if plan.test_every > 0 and plan.val_tasks:
        rarer = replace(plan, test_every=2 * plan.test_every)
        yield "training.test_freq", str(plan.test_every), str(rarer.test_every), rarer, "a coarser curve"
        if plan.val_samples > 1:
            fewer = replace(plan, val_samples=plan.val_samples // 2)
            yield "training.val_n", str(plan.val_samples), str(fewer.val_samples), fewer, "a wider interval of the resolve rate"
    rarer = replace(plan, save_every=2 * plan.save_every)
    yield "training.save_freq", str(plan.save_every), str(rarer.save_every), rarer, "more steps lost by a crash"


def _of_gpus(plan: Plan, trials: int) -> Iterator[tuple[str, str, str, Plan, str]]:
    for by in (2, 4, 8, 16):
        if (workers := by * plan.live_trials) <= trials:
            more = replace(plan, live_trials=workers)
            memory = f"{size(workers * plan.sandbox_bytes)} of host memory" if plan.sandbox_bytes else "memory"
            costs = f"{memory} and the processors for that many sandboxes"
            yield "harbor_runtime.num_workers", str(plan.live_trials), str(workers), more, costs
    if not plan.asynchronous:
        yield "training.mode", "sync", "colocate_async", replace(plan, asynchronous=True), "trials that span two versions of the policy"
    nodes = replace(plan, nodes=2 * plan.nodes, gpus=2 * plan.gpus)
    yield "infrastructure.nnodes", str(plan.nodes), str(nodes.nodes), nodes, "as many machines again"
    for tensor_parallel in (plan.gen_tp // 2, plan.gen_tp * 2):
        if tensor_parallel >= 1 and plan.gpus % tensor_parallel == 0:
            other = replace(plan, gen_tp=tensor_parallel)
            yield "vllm.gen_tp", str(plan.gen_tp), str(tensor_parallel), other, "another cache a replica, other traffic between GPUs"
    more = replace(plan, max_num_seqs=2 * plan.max_num_seqs)
    yield "vllm.max_num_seqs", str(plan.max_num_seqs), str(more.max_num_seqs), more, "cache"
    if plan.gpu_memory_utilization < 0.9:
        more = replace(plan, gpu_memory_utilization=0.9)
        yield "vllm.gpu_memory_utilization", f"{plan.gpu_memory_utilization:g}", "0.9", more, "less room beside the engine"
    if plan.tail_kill_target >= 1.0:
        cut = replace(plan, tail_kill_target=0.95)
        yield "harbor_runtime.tail_kill_target", "1.0", "0.95", cut, "the slowest twentieth of the trials"
    if plan.actor_offload:
        yield "training.actor_offload", "true", "false", replace(plan, actor_offload=False), "memory beside the engine"
    if plan.gradient_checkpointing:
        kept = replace(plan, gradient_checkpointing=False)
        yield "training.gradient_checkpointing", "true", "false", kept, "activations of every layer in memory"
    if not plan.remove_padding:
        yield "training.use_remove_padding", "false", "true", replace(plan, remove_padding=True), "needs flash attention"


def _fits(other: Forecast, now: Forecast) -> bool:
    """One longest trial in the engine, and the trainer's peak on the card, or at least no higher than it is now."""
    plan = other.plan
    if other.engine.full_sequences is not None and other.engine.full_sequences < 1:
        return False
    return plan.cpu or other.trainer.peak_bytes <= max(plan.gpu_memory_bytes or 0, now.trainer.peak_bytes)
