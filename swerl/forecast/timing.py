"""A step's time by phases, and a run's: arithmetic over the plan, the policy's shape, rates and a mean trial.

Generation. A trial's time is its sandbox's start, its turns (prefill of what is new, decoding, tools) and its verifier. Decoding a token
takes as long as reading the weights that the batch touches and every sequence's cache, or as computing them, whichever is longer; the batch
is as many trials as are in the engine at once: a closed queue, whose trials are either outside or in the engine, and wait where it is full.
``live_trials`` slots serve the step's trials; the step ends with the slowest, whose duration is the expected maximum of a log-normal
(Blom's quantile of the number that run last). ``colocate_async`` waits for no slowest trial, since slots go on with the next batch; its
engine sleeps during an update all the same, so nothing else of a trial goes on then.

Training. A forward pass costs two operations per active parameter and token and the attention's share, which flash attention computes at
a dense policy's rate in a mixture too, and the bytes that norms, activations and the head move; a backward costs twice that (with adapters
once), and checkpointing the layers' forward pass once more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import exp
from statistics import NormalDist
from types import MappingProxyType
from typing import Any

from swerl.facts.memory import Forecast, Plan, inside_units, trained_parameters
from swerl.facts.shape import ModelShape, dtype_bytes
from swerl.forecast.rates import Rates, Trial

HALVINGS = 50
BATCH_TAIL = 0.5614  # exp(-Euler's constant): the quantile whose value is the expected maximum


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds. ``phases`` by verl's names where it has one; validation and saving are a step's share of them. ``in_engine`` is the number
    of trials that a replica serves at once; ``limit`` names what holds generation up."""

    phases: Mapping[str, float]
    step_s: float
    trial_s: float
    slowest_s: float
    in_engine: float
    limit: str

    @property
    def bottleneck(self) -> str:
        return max(self.phases, key=lambda name: self.phases[name])


@dataclass(frozen=True, slots=True)
class RunTime:
    """Of the whole run. ``wall_s`` is None where the number of steps is not known."""

    step: StepTime
    trials_per_hour: float
    wall_s: float | None
    gpu_hours: float | None


def run_time(foreseen: Forecast, rates: Rates, trial: Trial) -> RunTime:
    plan = foreseen.plan
    step = step_time(foreseen, rates, trial)
    wall = None if plan.steps is None else rates.boot_s + plan.steps * step.step_s
    return RunTime(step, 3600 * foreseen.trials_per_step / step.step_s, wall, None if wall is None else wall / 3600 * plan.gpus)


def step_time(foreseen: Forecast, rates: Rates, trial: Trial) -> StepTime:
    plan, shape = foreseen.plan, foreseen.shape
    gen_s, one_s, slowest_s, busy, limit = _generation(foreseen, rates, trial, foreseen.trials_per_step)
    tokens = _trained_tokens(plan, trial) * foreseen.trials_per_step
    layers_s, head_s = (tokens * one / plan.gpus for one in forward_s(shape, plan, rates, trial.prompt_tokens + trial.response_tokens))
    offload_s = foreseen.trainer.offloaded_host_bytes / rates.host_link_bytes_s if plan.actor_offload else 0.0
    passes = 2 if plan.lora_rank else 3  # frozen weights get no gradient of their own
    phases = {
        "gen": gen_s,
        "old_log_prob": (layers_s + head_s) * (2 if plan.reference_policy else 1),
        "update_actor": layers_s * (passes + plan.gradient_checkpointing) + passes * head_s + 2 * offload_s + rates.update_fixed_s,
        "update_weights": _sync_s(foreseen, rates) + rates.weights_fixed_s,
        "save_checkpoint": foreseen.disk.save_bytes / rates.disk_bytes_s / plan.save_every,
        "validation": 0.0,
    }
    if plan.val_tasks and plan.test_every > 0:
        validation = _generation(foreseen, rates, trial, plan.val_tasks * plan.val_samples)[0]
        times = 1 / plan.test_every + (1 / plan.steps if plan.val_before and plan.steps else 0)
        phases["validation"] = validation * times
    return StepTime(MappingProxyType(phases), sum(phases.values()), one_s, slowest_s, busy, limit)


def _sync_s(foreseen: Forecast, rates: Rates) -> float:
    """All weights are sent; with adapters these are, and the engine brings its own back from host memory."""
    plan, engine = foreseen.plan, foreseen.engine
    if not plan.lora_rank:
        return engine.weight_bytes * plan.gen_tp / rates.weight_copy_bytes_s
    sent = trained_parameters(foreseen.shape, plan) * dtype_bytes(plan.rollout_dtype)
    return sent / rates.weight_copy_bytes_s + engine.weight_bytes / rates.host_link_bytes_s


def _generation(foreseen: Forecast, rates: Rates, trial: Trial, trials: int) -> tuple[float, float, float, float, str]:
    """Seconds of all trials, of a mean one and of the slowest; trials in an engine at once; what limits."""
    plan, engine = foreseen.plan, foreseen.engine
    slots = min(plan.live_trials, trials)
    context = trial.prompt_tokens + trial.response_tokens / 2
    room = float(plan.max_num_seqs)
    if engine.kv_tokens is not None:
        room = min(room, max(1.0, engine.kv_tokens / (trial.prompt_tokens + trial.response_tokens)))
    beside = trial.setup_s + trial.verifier_s
    agent = trial.turns * trial.outside_s
    new_tokens = trial.prompt_tokens + trial.response_tokens - trial.sampled_tokens
    prefill = new_tokens * 2 * foreseen.shape.active_parameters / (rates.flops * rates.prefill_share * plan.gen_tp)

    def inside(busy: float) -> float:
        alone = trial.sampled_tokens * decode_s(foreseen, rates, context, busy) + prefill * max(1.0, busy / 4)
        return min(agent, alone) if trial.source == "measured" else alone

    def alone(busy: float) -> float:
        """A trial's time where it waits for nobody; a measured agent's time has the engine's share in it."""
        return beside + agent + (0.0 if trial.source == "measured" else inside(busy))

    busy, one = _served(slots / engine.replicas, room, inside, alone)
    longest = plan.trial_limit_s or float("inf")
    one, unhindered, waits = min(one, longest), alone(busy), one > 1.05 * alone(busy)  # the last trials of a step wait for nobody
    slowest = min(_at(unhindered, trial.spread, _quantile(min(slots, trials))), longest)
    if plan.tail_kill_target < 1:
        slowest = min(slowest, _at(unhindered, trial.spread, NormalDist().inv_cdf(plan.tail_kill_target)) + plan.tail_grace_s)
    if plan.asynchronous:
        slowest = one
    total = max(0, trials - slots) / slots * one + max(one, slowest)
    limit = _limit(waits, room, plan, slots, trials, slowest, one)
    return total, one, slowest, busy, limit


def _served(slots: float, room: float, inside: Callable[[float], float], alone: Callable[[float], float]) -> tuple[float, float]:
    """Trials of a replica's ``slots`` that are in its engine at once, and seconds of a trial. By Little's law the former are the slots
    times the engine's share of a trial's time; where that is more than ``room``, the engine is full and lets trials go at its own pace."""
    low, high = 0.0, min(slots, room)
    if high * alone(high) < slots * inside(high):
        return room, slots * inside(room) / room
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if middle * alone(middle) < slots * inside(middle) else (low, middle)
    return high, alone(high)


def decode_s(foreseen: Forecast, rates: Rates, context: float, batch: float) -> float:
    """Seconds that one decoding step of ``batch`` sequences of ``context`` tokens takes on a replica."""
    shape, plan = foreseen.shape, foreseen.plan
    size = dtype_bytes(plan.rollout_dtype)
    routed = (shape.parameters - shape.active_parameters) / (1 - shape.experts_per_token / shape.experts) if shape.is_moe else 0.0
    touched = 1 - (1 - shape.experts_per_token / shape.experts) ** max(1.0, batch) if shape.is_moe else 1.0
    weights = (shape.parameters - routed + routed * touched) * size / plan.gen_tp
    read_s = (weights + batch * context * foreseen.engine.kv_bytes_per_token) / rates.memory_bytes_s
    compute_s = batch * 2 * shape.active_parameters / (rates.flops * rates.prefill_share * plan.gen_tp)
    return max(rates.decode_floor_s, read_s, compute_s)


def _trained_tokens(plan: Plan, trial: Trial) -> float:
    """Tokens of a row as the trainer computes it: without removal of padding, the longest there can be."""
    return trial.prompt_tokens + trial.response_tokens if plan.remove_padding else plan.prompt_tokens + plan.response_tokens


def forward_s(shape: ModelShape, plan: Plan, rates: Rates, length: float) -> tuple[float, float]:
    """Seconds of one GPU for one token of a row of ``length`` tokens: in the layers, and in the head with the log-probabilities."""
    share = rates.train_share_moe if shape.is_moe else rates.train_share_dense
    attention_share = rates.train_share_dense if plan.flash_attention else share
    attention = 2 * shape.attention_layers * shape.heads * shape.head_dim * length
    kept = shape.layers * inside_units(shape) * dtype_bytes(plan.param_dtype)
    head = shape.vocab * shape.hidden
    layers = (2 * (shape.active_parameters - head) / share + attention / attention_share) / rates.flops + kept / rates.kept_bytes_s
    return layers, 2 * head / rates.train_share_dense / rates.flops + shape.vocab * 4 / rates.head_bytes_s


def _at(mean_s: float, spread: float, z: float) -> float:
    """A log-normal duration of this mean, ``z`` deviations up."""
    return mean_s * exp(spread * z - spread**2 / 2)


def _quantile(count: int) -> float:
    return 0.0 if count < 2 else NormalDist().inv_cdf(1 - BATCH_TAIL / count)


def _limit(waits: bool, room: float, plan: Plan, slots: int, trials: int, slowest: float, one: float) -> str:
    if waits:
        return "the engine's cache" if room < plan.max_num_seqs else "vllm.max_num_seqs"
    if slots < trials and (trials - slots) / slots * one > slowest:
        return "harbor_runtime.num_workers"
    return "the slowest trials" if slowest > 1.5 * one else "decoding"


def as_dict(found: RunTime) -> dict[str, Any]:
    step = found.step
    return {
        "phases_s": dict(step.phases),
        "step_s": step.step_s,
        "trial_s": step.trial_s,
        "slowest_trial_s": step.slowest_s,
        "trials_in_an_engine": step.in_engine,
        "bottleneck": step.bottleneck,
        "generation_is_held_up_by": step.limit,
        "trials_per_hour": found.trials_per_hour,
        "wall_s": found.wall_s,
        "gpu_hours": found.gpu_hours,
    }
