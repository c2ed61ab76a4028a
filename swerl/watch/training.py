"""Alarms about what a training step did: engine and trainer agree, the policy moves, and it does not fall in on itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import mean
from typing import Any

from swerl.watch.picture import Picture
from swerl.watch.rule import Finding, StepRule, number
from swerl.watch.terms import Terms

FIRST_STEPS = 3  # what "at first" means for a comparison with the past
LEAST_TURNS = 4.0  # of a trial, below which its history cannot be cut much


class Correlation(StepRule):
    id = "SWERL-W101"
    title = "engine and trainer disagree"
    reads = "training/rollout_actor_probs_pearson_corr"
    asks = "the probabilities of sampled tokens, as engine and trainer see them, correlate less than watch.correlation_min"
    remedy = "for a mixture of experts train with router replay; else look whether weights reach the engine, and at dtype and attention"
    action = "pause"
    faults = (35,)

    def look(self, step: int, row: Mapping[str, Any], picture: Picture, terms: Terms) -> Finding | None:
        found, least = number(row, self.reads), terms.watch.correlation_min
        if found is None or found >= least:
            return None
        return Finding(f"engine and trainer correlate {found:.4f}, less than {least:g}", {"correlation": found, "least": least})


class RolloutKl(StepRule):
    id = "SWERL-W102"
    title = "engine drifts from the trainer"
    reads = "rollout_corr/kl"
    asks = "the divergence between engine and trainer exceeds watch.rollout_kl_max"
    remedy = "turn on algorithm.rollout_correction.rollout_is: token, and find what differs (dtype, attention, stale weights)"

    def look(self, step: int, row: Mapping[str, Any], picture: Picture, terms: Terms) -> Finding | None:
        found, most = number(row, self.reads), terms.watch.rollout_kl_max
        if found is None or abs(found) <= most:
            return None
        return Finding(f"divergence between engine and trainer {found:.2g}, more than {most:g}", {"kl": found, "most": most})


class LearningRate(StepRule):
    id = "SWERL-W103"
    title = "learning rate 0"
    reads = "actor/lr"
    asks = "a step inside the run was made with a learning rate of 0"
    remedy = "set training.lr_scheduler: constant, or let the schedule end after the run's last step"
    action = "pause"
    faults = (27,)

    def look(self, step: int, row: Mapping[str, Any], picture: Picture, terms: Terms) -> Finding | None:
        rate = number(row, self.reads)
        last = terms.total_steps is not None and step >= terms.total_steps
        if rate is None or rate > 0 or step <= terms.warmup_steps + 1 or last:
            return None
        return Finding(f"the learning rate is {rate:g}: the policy does not change", {"lr": rate})


class NoGradient(StepRule):
    id = "SWERL-W104"
    title = "no usable gradient"
    reads = "actor/grad_norm"
    asks = "the norm of the gradient is 0 or no number; verl leaves out such an update"
    remedy = "look at rewards (every group the same?), at the loss for infinities, and at the learning rate"
    action = "pause"

    def look(self, step: int, row: Mapping[str, Any], picture: Picture, terms: Terms) -> Finding | None:
        norm = number(row, self.reads)
        if norm is not None and math.isfinite(norm) and norm > 0:
            return None
        said = "no number" if norm is None or not math.isfinite(norm) else "0"  # JSON has no NaN: it is written as null
        return Finding(f"the norm of the gradient is {said}", {"grad_norm": said})


class LargeGradient(StepRule):
    id = "SWERL-W105"
    title = "large gradient"
    reads = "actor/grad_norm"
    asks = "the norm of the gradient before clipping exceeds watch.grad_norm_max"
    remedy = "lower algorithm.learning_rate or the clip ratios; look for a trial of unusual length"

    def look(self, step: int, row: Mapping[str, Any], picture: Picture, terms: Terms) -> Finding | None:
        norm, most = number(row, self.reads), terms.watch.grad_norm_max
        if norm is None or not math.isfinite(norm) or norm <= most:
            return None
        return Finding(f"the norm of the gradient is {norm:.1f}, more than {most:g}", {"grad_norm": norm, "most": most})


class Entropy(StepRule):
    id = "SWERL-W106"
    title = "entropy collapses"
    reads = "actor/entropy"
    asks = "the policy's entropy is below watch.entropy_min_share of what its first steps had"
    remedy = "lower algorithm.learning_rate, raise clip_ratio_high, or give algorithm.entropy_coeff a value"

    def look(self, step: int, row: Mapping[str, Any], picture: Picture, terms: Terms) -> Finding | None:
        found = number(row, self.reads)
        past = [e for earlier in picture.before(step)[:FIRST_STEPS] if (e := number(earlier, "actor/entropy")) is not None]
        if found is None or len(past) < FIRST_STEPS:
            return None
        first = mean(past)
        if found >= terms.watch.entropy_min_share * first:
            return None
        return Finding(f"entropy {found:.3g}, {found / first:.0%} of the first steps' {first:.3g}", {"entropy": found, "first": first})


class EffectiveSamples(StepRule):
    id = "SWERL-W107"
    title = "few effective samples"
    reads = "rollout_corr/rollout_is_eff_sample_size"
    asks = "the effective sample size of the importance weights is below watch.ess_min"
    remedy = "set algorithm.rollout_correction.rollout_is: token (weights over whole long responses leave no effective sample)"
    faults = (28, 52)

    def look(self, step: int, row: Mapping[str, Any], picture: Picture, terms: Terms) -> Finding | None:
        found, least = number(row, self.reads), terms.watch.ess_min
        if found is None or found >= least:
            return None
        return Finding(f"effective sample size {found:.3f}, less than {least:g}", {"ess": found, "least": least})


class Turns(StepRule):
    id = "SWERL-W108"
    title = "the policy stops using its tools"
    reads = "num_turns/mean"
    asks = "the mean number of turns of a trial falls below watch.turns_min, where the agent may have more"
    remedy = "go back to an earlier checkpoint; set harbor_agent.max_consecutive_no_tool, look at transcripts, lower the learning rate"
    action = "pause"
    faults = (29, 1)

    def look(self, step: int, row: Mapping[str, Any], picture: Picture, terms: Terms) -> Finding | None:
        found, least = number(row, self.reads), terms.watch.turns_min
        if found is None or terms.max_turns < 2 or found >= least or _history_is_cut(step, found, picture, terms):
            return None
        return Finding(f"{found:.2f} turns a trial, fewer than {least:g}", {"turns": found, "least": least})


class History(StepRule):
    id = "SWERL-W109"
    title = "agents cut their history"
    reads = "num_turns/mean"
    asks = "less than watch.history_min_share of the turns that trials had lie on their trained paths"
    remedy = (
        "tell the agent the model's window (harbor_agent.agent_kwargs; a client that does not know it may cut prompts to 4k tokens), or"
        " turn off what condenses its history; capture.paths: all trains the other parts too"
    )
    faults = (50,)

    def look(self, step: int, row: Mapping[str, Any], picture: Picture, terms: Terms) -> Finding | None:
        found = number(row, self.reads)
        if found is None or not _history_is_cut(step, found, picture, terms):
            return None
        turns = _turns_of(step, picture)
        text = f"a trial has {turns:.1f} turns, and {found:.1f} of them on the path that is trained: agents cut or rewrite their history"
        return Finding(text, {"turns": turns, "on_path": found})


class Compiles(StepRule):
    id = "SWERL-W110"
    title = "the trainer goes on compiling"
    reads = "swerl/compile/count"
    asks = "kernels or graphs are compiled after the second step of a start"
    remedy = (
        "a compile key changes from step to step: look which in the trainer's log with TORCH_LOGS=recompiles; attention gets its lengths as"
        " integers from swerl's engine, so look at verl_overrides and at the model's own code"
    )

    def look(self, step: int, row: Mapping[str, Any], picture: Picture, terms: Terms) -> Finding | None:
        count, seconds = number(row, self.reads), number(row, "swerl/compile/seconds") or 0.0
        if not count or step <= picture.restored + 2:
            return None
        return Finding(f"{count:.0f} compilations in step {step} took {seconds:.1f} s", {"count": count, "seconds": seconds})


def _turns_of(step: int, picture: Picture) -> float:
    """Mean turns of the step's trials in the loss, whatever path they lie on; 0 where none has settled."""
    return mean([trial.turns for trial in picture.trials.get(step, ()) if trial.in_loss] or [0])


def _history_is_cut(step: int, on_path: float, picture: Picture, terms: Terms) -> bool:
    """A conversation that is condensed once or twice, or has a sub-agent, keeps a larger share; one that is cut at each turn, a turn."""
    turns = _turns_of(step, picture)
    return turns >= LEAST_TURNS and on_path < terms.watch.history_min_share * turns


RULES = (
    Correlation(),
    RolloutKl(),
    LearningRate(),
    NoGradient(),
    LargeGradient(),
    Entropy(),
    EffectiveSamples(),
    Turns(),
    History(),
    Compiles(),
)
