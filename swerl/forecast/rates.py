"""Rates of hardware and the size of a trial: what a step's time is computed from. Assumed, or measured in a run.

Assumed rates and where they come from:

- decoding at 60 % of the memory's bandwidth: Qwen3-0.6B on one H100, 256 sequences of 1,024 + 256 tokens, made 14.8k tokens/s
  (``tests/forecast/test_timing.py``);
- training: matrices and attention at 65 % of the peak, the work between them and the head's by the bytes they move, fitted on one H200 for
  0.6B at 8k, 16k and 64k and for 4B at 16k (``docs/results/gpu.json``); an H100's bytes by its memory's bandwidth. A mixture's experts in
  FSDP at 5 % of the peak: published runs lie at 3 %;
- the CPU's numbers are those of the demonstration on 2 cores (``docs/results/demo.json``).

A trial's size depends on tasks and policy more than on anything else: it is the widest part of the forecast's range, and what a smoke run
or an earlier run replaces (``swerl forecast --from RUN``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, log
from statistics import mean, pstdev
from typing import Any

from swerl.facts.memory import GIB, Plan


@dataclass(frozen=True, slots=True)
class Rates:
    """Of one GPU (or of the whole machine, for the CPU). ``source`` says where they come from. ``kept_bytes_s``: bytes that a layer keeps
    for its backward (`facts.memory.inside_units`), made in a second beside matrices and attention; ``head_bytes_s``: fp32 logits, alike."""

    source: str
    flops: float
    memory_bytes_s: float
    prefill_share: float
    train_share_dense: float
    train_share_moe: float
    kept_bytes_s: float
    head_bytes_s: float
    decode_floor_s: float
    host_link_bytes_s: float
    weight_copy_bytes_s: float
    disk_bytes_s: float
    weights_fixed_s: float
    boot_s: float
    update_fixed_s: float


H100 = Rates(
    source="assumed: H100",
    flops=989e12,
    memory_bytes_s=0.6 * 3.35e12,
    prefill_share=0.4,
    train_share_dense=0.65,
    train_share_moe=0.05,
    kept_bytes_s=0.59e12,
    head_bytes_s=0.089e12,
    decode_floor_s=0.006,
    host_link_bytes_s=25e9,
    weight_copy_bytes_s=10e9,
    disk_bytes_s=1e9,
    weights_fixed_s=0.2,
    boot_s=300.0,
    update_fixed_s=2.0,
)
H200 = replace(H100, source="assumed: H200", memory_bytes_s=0.6 * 4.8e12, kept_bytes_s=0.85e12, head_bytes_s=0.127e12)
H200_BYTES = 100 * GIB  # a card with more memory than this is taken for one
CPU = Rates(
    source="assumed: 2 CPU cores, as in the demonstration",
    flops=40e9,
    memory_bytes_s=5e9,
    prefill_share=0.5,
    train_share_dense=1.0,
    train_share_moe=1.0,
    kept_bytes_s=inf,
    head_bytes_s=inf,
    decode_floor_s=0.010,
    host_link_bytes_s=5e9,
    weight_copy_bytes_s=1e9,
    disk_bytes_s=0.3e9,
    weights_fixed_s=0.05,
    boot_s=150.0,
    update_fixed_s=0.3,
)


@dataclass(frozen=True, slots=True)
class Trial:
    """A mean trial. ``sampled_tokens`` are what the policy writes, ``response_tokens`` with what tools answer; ``outside_s`` is spent per
    turn in tools and the agent itself; ``spread`` is the standard deviation of the logarithm of a trial's duration."""

    source: str
    turns: float
    prompt_tokens: float
    response_tokens: float
    sampled_tokens: float
    outside_s: float
    setup_s: float
    verifier_s: float
    spread: float


def rates_for(plan: Plan) -> Rates:
    if plan.cpu:
        return CPU
    return H200 if (plan.gpu_memory_bytes or 0) > H200_BYTES else H100


def assumed_trials(plan: Plan) -> tuple[Trial, Trial, Trial]:
    """A small, an expected and a large mean trial: shares of the configured lengths and turns."""
    if plan.cpu:
        return _sized(plan, 0.25, 0.8, 0.2, 0.3, 1.5), _sized(plan, 0.36, 0.95, 0.3, 0.4, 1.8), _sized(plan, 0.6, 1.0, 0.6, 0.6, 3.0)
    return _sized(plan, 0.15, 0.2, 1.0, 8.0, 20.0), _sized(plan, 0.4, 0.4, 2.5, 20.0, 60.0), _sized(plan, 0.7, 0.8, 5.0, 60.0, 180.0)


def _sized(plan: Plan, length: float, turns: float, outside_s: float, setup_s: float, verifier_s: float) -> Trial:
    response = length * plan.response_tokens
    return Trial(
        source="assumed",
        turns=max(1.0, turns * plan.max_turns),
        prompt_tokens=min(plan.prompt_tokens, max(0.35 * plan.prompt_tokens, 16.0)),
        response_tokens=response,
        sampled_tokens=0.35 * response,
        outside_s=outside_s,
        setup_s=setup_s,
        verifier_s=verifier_s,
        spread=0.35 if plan.cpu else 0.6,
    )


def measured_trial(rows: Sequence[Mapping[str, Any]], trial_s: Sequence[float], assumed: Trial) -> Trial:
    """The mean trial of a run's training rows; ``trial_s`` are durations of single trials, for the spread. What no row tells is as assumed.
    The time an agent spent is taken whole, so ``outside_s`` of a measured trial includes the engine's share."""

    def of(name: str, otherwise: float) -> float:
        found = [float(row[name]) for row in rows if row.get(name) is not None]
        return mean(found) if found else otherwise

    response = of("response_length/mean", assumed.response_tokens)
    turns = of("num_turns/mean", assumed.turns)
    durations = [s for s in trial_s if s > 0]
    return replace(
        assumed,
        source="measured",
        turns=turns,
        prompt_tokens=of("prompt_length/mean", assumed.prompt_tokens),
        response_tokens=response,
        sampled_tokens=0.35 * response,
        outside_s=of("swerl/trials/agent_s/mean", assumed.outside_s * turns) / turns,
        setup_s=of("swerl/trials/setup_s/mean", assumed.setup_s),
        verifier_s=of("swerl/trials/verifier_s/mean", assumed.verifier_s),
        spread=pstdev(map(log, durations)) if len(durations) > 7 else assumed.spread,
    )
