"""Statistics of a run's trials. Pure functions on plain data; formulas named by where they come from.

A trial that was not graded is neither a success nor a failure: it lowers the coverage, never the rate. A rate is published with its
interval and its coverage, or not at all.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

RESOLVED_AT = 1.0
PUBLISHED_COVERAGE = 0.95  # below this share of graded trials a validation is not compared with another one
Z95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Trial:
    """A settled trial, as far as statistics go. ``reward`` is None exactly when it was not graded; ``version`` is ``<lineage>:<step>``."""

    split: str
    task: str
    sample: int
    version: str
    outcome: str
    reward: float | None
    attempts: int = 1
    total_s: float = 0.0
    name: str = ""

    @property
    def graded(self) -> bool:
        return self.reward is not None

    @property
    def resolved(self) -> bool:
        return self.reward is not None and self.reward >= RESOLVED_AT

    @property
    def step(self) -> int:
        return int(self.version.rpartition(":")[2])


def trial_of(result: Mapping[str, Any]) -> Trial:
    """From a ``settled`` entry of the runner's journal (`swerl.record.model.TrialResult` as JSON)."""
    who = result["identity"]
    return Trial(
        split=who["split"],
        task=who["task_hash"],
        sample=who["sample"],
        version=who["version"],
        outcome=result["outcome"],
        reward=result["reward"] if result["graded"] else None,
        attempts=result["attempts"],
        total_s=result["timing"]["total_s"],
        name=result["trial_name"],
    )


@dataclass(frozen=True, slots=True)
class Rate:
    """``value`` of ``graded`` trials with a 95 % interval (trials taken as independent); None without a graded trial. ``coverage`` is the
    graded share of what was to be run."""

    value: float | None
    low: float | None
    high: float | None
    resolved: int
    graded: int
    expected: int

    @property
    def coverage(self) -> float:
        return self.graded / self.expected if self.expected else 0.0

    @property
    def published(self) -> bool:
        return self.value is not None and self.coverage >= PUBLISHED_COVERAGE

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "coverage": self.coverage, "published": self.published}


@dataclass(frozen=True, slots=True)
class Validation:
    """One validation: all trials of the split ``val`` under one version of the weights. ``pass_at`` maps k to (value, number of tasks)."""

    version: str
    step: int
    rate: Rate
    pass_at: dict[int, tuple[float, int]]
    outcomes: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        return {
            "version": self.version,
            "step": self.step,
            "resolve_rate": self.rate.as_dict(),
            "pass_at": {str(k): {"value": value, "tasks": tasks} for k, (value, tasks) in self.pass_at.items()},
            "outcomes": self.outcomes,
        }


def wilson(successes: int, trials: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval for a proportion (Wilson 1927): never outside [0, 1], sensible at 0 and at all. (0, 1) without a trial."""
    if not 0 <= successes <= trials:
        raise AssertionError(f"{successes} successes of {trials} trials")
    if trials == 0:
        return 0.0, 1.0
    share, square = successes / trials, z * z
    centre = (share + square / (2 * trials)) / (1 + square / trials)
    half = z / (1 + square / trials) * math.sqrt(share * (1 - share) / trials + square / (4 * trials * trials))
    return (0.0 if successes == 0 else centre - half), (1.0 if successes == trials else centre + half)


def pass_at_k(samples: int, resolved: int, k: int) -> float:
    """Chance that at least one of k samples drawn without replacement from ``samples`` is resolved: 1 - C(n-c, k) / C(n, k), the unbiased
    estimator of Chen et al. 2021. Needs k <= samples."""
    if not (0 <= resolved <= samples and 1 <= k <= samples):
        raise AssertionError(f"{resolved} of {samples} samples, k = {k}")
    return 1.0 - math.comb(samples - resolved, k) / math.comb(samples, k)


def rate(trials: Iterable[Trial], expected: int | None = None) -> Rate:
    """``expected`` is how many trials there were to be; by default as many as there are."""
    trials = list(trials)
    graded = sum(t.graded for t in trials)
    resolved = sum(t.resolved for t in trials)
    wanted = len(trials) if expected is None else expected
    if graded == 0:
        return Rate(None, None, None, 0, 0, wanted)
    low, high = wilson(resolved, graded)
    return Rate(resolved / graded, low, high, resolved, graded, wanted)


def mean_pass_at(trials: Iterable[Trial], k: int) -> tuple[float, int] | None:
    """Mean over tasks with at least k graded samples, and how many tasks those are; None if there are none."""
    graded: dict[str, list[Trial]] = defaultdict(list)
    for trial in trials:
        if trial.graded:
            graded[trial.task].append(trial)
    values = [pass_at_k(len(group), sum(t.resolved for t in group), k) for group in graded.values() if len(group) >= k]
    return (sum(values) / len(values), len(values)) if values else None


def validations(trials: Iterable[Trial], expected: int | None = None) -> list[Validation]:
    """One entry per version, by step; of several lineages at one step the one written last comes last. ``expected`` trials each."""
    groups: dict[str, dict[tuple[str, int], Trial]] = defaultdict(dict)
    for trial in trials:
        if trial.split == "val":
            groups[trial.version][trial.task, trial.sample] = trial
    found = []
    for version, settled in groups.items():
        group = list(settled.values())
        most = max(Counter(t.task for t in group).values())
        passes = {k: value for k in _ks(most) if (value := mean_pass_at(group, k)) is not None}
        outcomes = dict(sorted(Counter(t.outcome for t in group).items()))
        found.append(Validation(version, group[0].step, rate(group, expected), passes, outcomes))
    return sorted(found, key=lambda v: v.step)


def _ks(most: int) -> list[int]:
    """1, 2, 4, … up to the number of samples."""
    return [1 << i for i in range(most.bit_length()) if 1 << i <= most]


def best(found: Sequence[Validation]) -> Validation | None:
    """The published validation with the highest rate; the earlier one of equals."""
    published = [v for v in found if v.rate.published]
    return max(published, key=lambda v: (v.rate.value, -v.step)) if published else None


def costs(trials: Iterable[Trial]) -> dict[str, dict[str, float]]:
    """Trials, attempts and seconds by outcome: what the failed, killed and filtered ones cost stands beside what the others did."""
    found: dict[str, dict[str, float]] = defaultdict(lambda: {"trials": 0, "attempts": 0, "seconds": 0.0})
    for trial in trials:
        row = found[trial.outcome]
        row["trials"] += 1
        row["attempts"] += trial.attempts
        row["seconds"] = round(row["seconds"] + trial.total_s, 3)
    return dict(sorted(found.items()))
