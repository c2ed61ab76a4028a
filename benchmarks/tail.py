"""What the tail-killer saves and what it costs, against no control and against killing everything at once (trials environment).

A step of 512 trials (64 prompts, 8 each) on 128 places; a trial's time is log-normal with sigma 0.6, or replayed from a run's journal with
``--journal=PATH``; a prompt's chance of success is uniform. ``signal`` counts prompts whose graded rewards differ, the only ones that move
GRPO, as a share of those that would have differed with nobody killed; ``broken`` counts prompts left with fewer than two graded trials.
Rules are at the settings of the reference: target 0.95, grace 180 s, for trials of 600 s in the median.
"""

from __future__ import annotations

import heapq
import math
import random
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "trials"))
from results import machine, write

from swerl.record.trial_journal import read
from swerl.trials.tail import GROUP_MINIMUM, Group, victims

PROMPTS, SAMPLES, PLACES, STEPS = 64, 8, 128, 200
TARGET, GRACE_S, MEDIAN_S, SIGMA = 0.95, 180.0, 600.0, 0.6


@dataclass(frozen=True, slots=True)
class Planned:
    """One trial of the step as it would go with nobody interfering."""

    key: str
    prompt: int
    began_s: float
    ended_s: float
    reward: float


def plan(random_: random.Random, durations_s: Sequence[float] | None) -> list[Planned]:
    free = [0.0] * PLACES
    trials = []
    for prompt in range(PROMPTS):
        chance = random_.random()
        for sample in range(SAMPLES):
            began = heapq.heappop(free)
            lasts = random_.choice(durations_s) if durations_s else random_.lognormvariate(math.log(MEDIAN_S), SIGMA)
            heapq.heappush(free, began + lasts)
            trials.append(Planned(f"{prompt}.{sample}", prompt, began, began + lasts, float(random_.random() < chance)))
    return trials


def target_time(trials: Sequence[Planned]) -> float:
    return sorted(trial.ended_s for trial in trials)[math.ceil(TARGET * len(trials)) - 1]


def nobody(trials: Sequence[Planned]) -> dict[str, float]:
    return {}


def at_once(trials: Sequence[Planned]) -> dict[str, float]:
    """Key of each killed trial -> when."""
    when = target_time(trials) + GRACE_S
    return {trial.key: when for trial in trials if trial.ended_s > when}


def by_group(trials: Sequence[Planned]) -> dict[str, float]:
    killed: dict[str, float] = {}
    for number, everything in enumerate((False, True), 1):
        when = target_time(trials) + number * GRACE_S
        groups = []
        for prompt in range(PROMPTS):
            mine = [trial for trial in trials if trial.prompt == prompt and trial.key not in killed]
            rewards = tuple(trial.reward for trial in mine if trial.ended_s <= when)
            groups.append(Group(rewards, {t.key: max(0.0, when - t.began_s) for t in mine if t.ended_s > when}))
        killed |= dict.fromkeys(victims(groups, everything), when)
    return killed


def outcome(trials: Sequence[Planned], killed: dict[str, float]) -> tuple[float, float, float, float]:
    """(step seconds, trials lost, prompts with signal, prompts with fewer than two graded)."""
    step_s = max(killed.get(trial.key, trial.ended_s) for trial in trials)
    kept = [[t.reward for t in trials if t.prompt == prompt and t.key not in killed] for prompt in range(PROMPTS)]
    return step_s, len(killed), sum(len(set(r)) > 1 for r in kept), sum(len(r) < GROUP_MINIMUM for r in kept)


def main(journal: Path | None, wanted: bool) -> None:
    durations, rows = None, []
    measured_on = machine()
    if journal is not None:
        timings = [line["result"]["timing"] for line in read(journal) if line["kind"] == "settled" and line["result"]["graded"]]
        durations = [timing["total_s"] - timing["queue_s"] for timing in timings]
    rules: list[tuple[str, Callable[[Sequence[Planned]], dict[str, float]]]] = [
        ("no control", nobody),
        ("kill all at target + grace", at_once),
        ("tail-killer (group-aware)", by_group),
    ]
    where = f"{len(durations)} recorded trials" if durations else f"log-normal, median {MEDIAN_S:.0f} s, sigma {SIGMA}"
    print(f"{STEPS} steps of {PROMPTS * SAMPLES} trials on {PLACES} places; {where}\n")
    print(f"{'rule':<28} {'step':>9} {'spread':>16} {'time':>6} {'lost trials':>12} {'signal':>8} {'broken':>7}")
    steps = [plan(random.Random(seed), durations) for seed in range(STEPS)]
    base = [outcome(step, {}) for step in steps]
    for name, rule in rules:
        found = [outcome(step, rule(step)) for step in steps]
        seconds = [step_s for step_s, *_ in found]
        deciles = statistics.quantiles(seconds, n=10)
        ratio = statistics.mean(ours[0] / free[0] for ours, free in zip(found, base, strict=True))
        signal = sum(ours[2] for ours in found) / sum(free[2] for free in base)
        lost, broken = statistics.mean(f[1] for f in found), statistics.mean(f[3] for f in found)
        spread = f"{deciles[0]:.0f} to {deciles[-1]:.0f} s"
        print(f"{name:<28} {statistics.mean(seconds):>7.0f} s {spread:>16} {ratio:>5.0%} {lost:>12.1f} {signal:>8.1%} {broken:>7.2f}")
        rows.append((name, f"{statistics.mean(seconds):.0f} s", spread, f"{ratio:.0%}", f"{lost:.1f}", f"{signal:.1%}", f"{broken:.2f}"))
    if wanted:
        columns = ("rule", "step", "deciles", "of no control", "trials lost", "signal kept", "groups broken")
        said = f"{STEPS} steps of {PROMPTS * SAMPLES} trials on {PLACES} places; {where}; target {TARGET}, grace {GRACE_S:.0f} s."
        write(
            "tail",
            measured_on,
            columns,
            rows,
            [said, "A simulation of the rule in swerl/trials/tail.py."],
        )


if __name__ == "__main__":
    given = next((argument.partition("=")[2] for argument in sys.argv[1:] if argument.startswith("--journal=")), None)
    main(Path(given) if given else None, "--no-write" not in sys.argv)
