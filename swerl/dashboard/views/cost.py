"""What the run cost, by what became of it: trained, no signal, masked, killed, failed, superseded, validation, and the rest.

Device time of a step is its wall time (``timing_s/step``, and ``timing_s/testing``, which verl counts beside it) times the devices the run
holds (GPUs; on a CPU the host counts as one). Its sampling part (``timing_s/gen``) is shared out by sampled tokens, or by the agents'
seconds where tokens were not recorded; its training part (what the step took beyond that, less saving) goes to the trials in the loss, by
the same measure; validation to validation; saving and what is left to ``other``. So the parts add up to the whole, and a trial that was
thrown away has its price.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from swerl.dashboard.context import Seen

IN_LOSS = ("trained", "no signal")


def cost(seen: Seen) -> dict[str, Any]:
    devices = max(1, seen.devices)
    wall = seen.points("timing_s/step")
    parts = {name: seen.points(f"timing_s/{name}") for name in ("gen", "testing", "save_checkpoint")}
    fates: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    weights: dict[int, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    measured = seen.one("SELECT coalesce(sum(measured), 0) > 0.5 * coalesce(sum(trials), 0) FROM steps")
    by_step: dict[int, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for row in seen.rows("SELECT * FROM steps"):
        fate = fates[row["fate"]]
        for name in ("trials", "attempts", "turns", "total_s", "agent_s", "prompt_tokens", "cached_tokens", "sampled_tokens", "resolved"):
            fate[name] += row[name]
        if row["split"] == "train":
            weights[row["step"]][row["fate"]] += row["sampled_tokens"] if measured else row["agent_s"]
    for step in sorted({*wall, *parts["testing"]}):  # step 0 is the validation before training
        seconds = wall.get(step, 0.0)
        shares = weights.get(step, {})
        gen = min(parts["gen"].get(step, 0.0), seconds)
        testing, saving = parts["testing"].get(step, 0.0), min(parts["save_checkpoint"].get(step, 0.0), seconds - gen)
        update = seconds - gen - saving
        spent = by_step[step]
        left = _share(spent, shares, gen) + _share(spent, {fate: shares.get(fate, 0.0) for fate in IN_LOSS}, update)
        spent["validation"] += testing
        spent["other"] += saving + left
    for spent in by_step.values():
        for name, seconds in spent.items():
            fates[name]["device_s"] += seconds * devices
    resolved = fates["trained"]["resolved"] + fates["no signal"]["resolved"] if fates else 0
    total = sum(fate["device_s"] for fate in fates.values())
    return {
        "devices": seen.devices,
        "unit": "GPU" if seen.devices else "host",
        "by": "sampled tokens" if measured else "agent seconds",
        "fates": {name: dict(values) for name, values in fates.items()},
        "steps": [{"step": step, **{name: value * devices for name, value in spent.items()}} for step, spent in sorted(by_step.items())],
        "device_s": total,
        "tokens": sum(fate["sampled_tokens"] for fate in fates.values()),
        "resolved": resolved,
        "device_s_per_resolved": total / resolved if resolved else None,
        "tokens_per_resolved": sum(fate["sampled_tokens"] for fate in fates.values()) / resolved if resolved else None,
        "useful": fates["trained"]["device_s"] / total if total else None,
    }


def _share(into: dict[str, float], weights: dict[str, float], seconds: float) -> float:
    """Share ``seconds`` out by weight; what nobody can be charged with is returned."""
    whole = sum(weights.values())
    if not whole:
        return seconds
    for name, weight in weights.items():
        if weight:
            into[name] += seconds * weight / whole
    return 0.0
