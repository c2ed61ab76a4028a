"""Which single settings would shorten a step most: each is tried on the forecast itself, and kept only if the memory still fits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from swerl.forecast.memory import Forecast, Plan, forecast
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
    for workers in (2 * plan.live_trials, 4 * plan.live_trials, min(trials, 16 * plan.live_trials)):
        if plan.live_trials < workers <= trials:
            more = replace(plan, live_trials=workers)
            yield "harbor_runtime.num_workers", str(plan.live_trials), str(workers), more, "memory and processors for that many sandboxes"
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
