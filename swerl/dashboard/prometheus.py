"""``/metrics`` in Prometheus' text form: the newest of every metric by step, trial counts, gauges, and the run's state.

Names: ``swerl_metric{run,name}`` for verl's and our own metrics (their names hold slashes), ``swerl_gauge{run,name}`` for engine, gateway
and host, ``swerl_trials{run,split,outcome,fate}``, ``swerl_run_*``. docs/grafana.json is a dashboard over them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from swerl.dashboard.context import Seen

Sample = tuple[str, dict[str, str], float]
HELP = {
    "swerl_run_info": "state of the run; always 1",
    "swerl_run_step": "last trained step",
    "swerl_run_total_steps": "steps the run is to train",
    "swerl_metric": "value of a metric at its newest step",
    "swerl_gauge": "newest value of engine, gateway and host",
    "swerl_trials": "settled trials",
    "swerl_trial_seconds": "seconds of settled trials, all attempts",
    "swerl_sampled_tokens": "tokens sampled in settled trials",
}


def samples_of(entry: Mapping[str, Any], seen: Seen) -> list[Sample]:
    run = entry["id"]
    found: list[Sample] = [("swerl_run_info", {"run": run, "state": entry["state"], "project": str(entry["project"] or "")}, 1.0)]
    for field in ("step", "total_steps"):
        if entry[field] is not None:
            found.append((f"swerl_run_{field}", {"run": run}, float(entry[field])))
    for name, value in seen.rows(
        "SELECT n.name, p.value FROM points p JOIN names n ON n.id = p.name"
        " JOIN (SELECT name, max(step) AS step FROM points GROUP BY name) l ON l.name = p.name AND l.step = p.step ORDER BY n.name, p.ord"
    ):
        found.append(("swerl_metric", {"run": run, "name": name}, value))
    for name, value in seen.rows(
        "SELECT n.name, g.value FROM names n JOIN gauges g ON g.name = n.id"
        " WHERE g.time = (SELECT max(time) FROM gauges WHERE name = n.id) ORDER BY n.name"
    ):
        found.append(("swerl_gauge", {"run": run, "name": name}, value))
    for row in seen.rows(
        "SELECT split, outcome, fate, sum(trials) AS trials, sum(total_s) AS seconds, sum(sampled_tokens) AS tokens"
        " FROM steps GROUP BY split, outcome, fate ORDER BY 1, 2, 3"
    ):
        labels = {"run": run, "split": row["split"], "outcome": row["outcome"], "fate": row["fate"]}
        found.append(("swerl_trials", labels, float(row["trials"])))
        found.append(("swerl_trial_seconds", labels, float(row["seconds"])))
        found.append(("swerl_sampled_tokens", labels, float(row["tokens"])))
    return found


def exposition(samples: Sequence[Sample]) -> str:
    """Each family once, its samples together; of samples with the same labels the last stands."""
    families: dict[str, dict[str, float]] = {}
    for name, labels, value in samples:
        text = ",".join(f'{key}="{_escaped(label)}"' for key, label in labels.items())
        families.setdefault(name, {})[text] = value
    lines = []
    for name, rows in families.items():
        lines += [f"# HELP {name} {HELP[name]}", f"# TYPE {name} gauge"]
        lines += [f"{name}{{{text}}} {value!r}" for text, value in rows.items()]
    return "\n".join(lines) + "\n" if lines else ""


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
