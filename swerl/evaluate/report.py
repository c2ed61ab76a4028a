"""From settled trials to the numbers of an evaluation. Pure; what is not graded is counted beside the rate, never in it."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from swerl.evaluate.order import Order
from swerl.record.outcomes import MEANING, Outcome
from swerl.record.results import Z95, Trial, costs, mean_pass_at, rate, trial_of, wilson


def results(asked: Order, settled: Sequence[Mapping[str, Any]], tasks: int) -> dict[str, Any]:
    """``settled`` are results as the runner sends them; ``tasks`` how many were to be run."""
    trials = [trial_of(result) for result in settled]
    expected = tasks * asked.samples
    lost = sum(MEANING[Outcome(t.outcome)].against == "infrastructure" for t in trials)
    low, high = wilson(lost, expected) if expected else (0.0, 1.0)
    ks = [k for k in (1, 2, 4, 8, 16, 32, 64) if k <= asked.samples]
    passes = {k: found for k in ks if (found := mean_pass_at(trials, k)) is not None}
    return {
        "mode": asked.mode,
        "policy": asked.policy,
        "version": asked.version,
        "index": asked.index,
        "index_sha256": asked.index_sha256,
        "tasks": tasks,
        "samples": asked.samples,
        "settled": len(trials),
        "tokens_recorded": asked.upstream is None,
        "resolve_rate": {**rate(trials, expected).as_dict(), "by_task": by_task(trials)},
        "pass_at": {str(k): {"value": value, "tasks": number} for k, (value, number) in passes.items()},
        "infrastructure_failures": {"trials": lost, "share": lost / expected if expected else 0.0, "low": low, "high": high},
        "outcomes": dict(sorted(Counter(t.outcome for t in trials).items())),
        "costs": costs(trials),
        "order": asked.digest,
    }


def by_task(trials: Sequence[Trial]) -> dict[str, float] | None:
    """The rate's 95 % interval when the samples of a task are not independent: normal, with the variance of the tasks' sums about their
    share (cluster-robust). Needs two tasks with a graded trial."""
    groups: dict[str, list[bool]] = defaultdict(list)
    for trial in trials:
        if trial.graded:
            groups[trial.task].append(trial.resolved)
    graded = sum(map(len, groups.values()))
    if len(groups) < 2:
        return None
    share = sum(sum(group) for group in groups.values()) / graded
    spread = sum((sum(group) - len(group) * share) ** 2 for group in groups.values())
    half = Z95 * math.sqrt(spread * len(groups) / (len(groups) - 1)) / graded
    return {"low": max(0.0, share - half), "high": min(1.0, share + half)}


def text(found: Mapping[str, Any]) -> str:
    """The last screen of `swerl eval` and `swerl infer`."""
    resolved, lost = found["resolve_rate"], found["infrastructure_failures"]
    lines = [
        f"policy     {found['policy']} ({found['version']})",
        f"tasks      {found['tasks']} of {found['index']}, {found['samples']} each",
    ]
    if resolved["value"] is None:
        lines.append("resolved   nothing was graded: there is no rate")
    else:
        interval = resolved["by_task"] if found["samples"] > 1 and resolved["by_task"] else resolved
        how = " by task" if interval is not resolved else ""
        note = "" if resolved["published"] else "; TOO FEW GRADED TO COMPARE"
        lines.append(
            f"resolved   {resolved['value']:.3f}  (95 %{how}: {interval['low']:.3f} to {interval['high']:.3f};"
            f" {resolved['resolved']} of {resolved['graded']} graded, coverage {resolved['coverage']:.1%}{note})"
        )
    if len(found["pass_at"]) > 1:
        lines.append("pass@k     " + "  ".join(f"{k}: {value['value']:.3f}" for k, value in found["pass_at"].items()))
    lines.append(f"lost       {lost['share']:.1%} to the infrastructure (95 %: {lost['low']:.1%} to {lost['high']:.1%})")
    lines.append("outcomes   " + "  ".join(f"{name} {number}" for name, number in found["outcomes"].items()))
    if not found["tokens_recorded"]:
        lines.append("recorded   messages and answers as text; this server gives no tokens, so nothing of it can be trained on")
    return "\n".join(lines)
