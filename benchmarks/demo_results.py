"""docs/results/demo.json and demo.svg from demo runs: ``python benchmarks/demo_results.py --out docs/results NAME=RUN_DIR ...``.

Reads each run's journal, metrics, manifest and trajectories. Per validation: resolve rate with its 95 % interval, pass@k, how many trials
read a file first, how many edited, and how many of those passed. A name that starts with ``control`` is drawn dashed and left out of the
means. Nothing is chosen: every validation of every run appears. ``--name h100`` writes h100.json and h100.svg instead.
"""

from __future__ import annotations

import csv
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean
from typing import Any

import click

from swerl.artifacts.gather import read_trials
from swerl.config import load_resolved
from swerl.record.events import read_events
from swerl.record.metrics import read_metrics
from swerl.record.results import validations
from swerl.record.rundir import RunDir, read_json

WIDTH, HEIGHT, LEFT, BOTTOM = 640, 360, 56, 44
COLOURS = ("#1f6f8b", "#c2571a", "#4a7c3a", "#7a4988", "#8a6d1d")


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--name", default="demo", show_default=True, help="Of the two files.")
@click.option(
    "--gpu",
    "samples",
    type=(str, click.Path(path_type=Path)),
    multiple=True,
    help="NAME CSV: what nvidia-smi --query-gpu=timestamp,utilization.gpu,memory.used --format=csv,noheader,nounits -l 1 wrote in UTC.",
)
@click.argument("runs", nargs=-1, required=True)
def main(out: Path, name: str, samples: tuple[tuple[str, Path], ...], runs: tuple[str, ...]) -> None:
    found = {}
    for entry in runs:
        title, _, place = entry.partition("=")
        found[title] = summary(RunDir.at(place))
        for _, path in (sample for sample in samples if sample[0] == title):
            found[title]["gpu"] = gpu_share(RunDir.at(place), path)
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    (out / f"{name}.svg").write_text(curve(found))
    click.echo(table(found))


def summary(run: RunDir) -> dict[str, Any]:
    """What one run shows, from its own files."""
    config = load_resolved(run.resolved)
    trials = read_trials(run)
    opened = {trial.name: first_command(run, config, trial.name) for trial in trials if trial.split == "val"}
    journal_results = settled(run)
    journal = {(r["identity"]["version"], r["trial_name"]): r for r in journal_results if r["identity"]["split"] == "val"}
    steps = []
    for validation in validations(trials):
        own = [r for (version, _), r in journal.items() if version == validation.version and r["graded"]]
        edited = [r for r in own if r["rewards"].get("edited")]
        read = [r for r in own if opened[r["trial_name"]].startswith("cat")]
        steps.append(
            {
                "step": validation.step,
                "resolve_rate": validation.rate.as_dict(),
                "pass_at": {str(k): value for k, (value, _) in validation.pass_at.items()},
                "reads_first": len(read) / len(own),
                "edited": len(edited) / len(own),
                "passed_given_edit": sum(r["reward"] >= 1 for r in edited) / len(edited) if edited else None,
            }
        )
    rows = [row for row in read_metrics(run.metrics) if row.step > 0]
    manifest = read_json(run.manifest)["attempts"][-1]
    return {
        "validations": steps,
        "rollout_actor_correlation_min": min(row.data["training/rollout_actor_probs_pearson_corr"] for row in rows),
        "step_s_mean": mean(row.data["timing_s/step"] for row in rows),
        "means": {
            name: mean(row.data[name] for row in rows if name in row.data)
            for name in sorted({name for row in rows for name in row.data if name.startswith(("timing_s/", "perf/"))})
        },
        "by_step": {
            name: [row.data.get(name) for row in rows]
            for name in (
                "critic/rewards/mean",
                "training/rollout_actor_probs_pearson_corr",
                "actor/grad_norm",
                "actor/entropy",
                "timing_s/step",
            )
        },
        "lineages": [row.lineage for row in rows],
        "steps": len(rows),
        "training_trials": spent([r for r in journal_results if r["identity"]["split"] == "train" and r["graded"]]),
        "trained_trials": sum(row.data["swerl/trials/in_loss"] for row in rows),
        "commit": manifest["source"]["commit"],
        "dirty": manifest["source"]["dirty"],
        "seeds": manifest.get("situation", manifest)["seeds"],
        "learning_rate": config.algorithm.learning_rate,
        "num_workers": config.harbor_runtime.num_workers,
        "host": {key: manifest["host"][key] for key in ("cpus", "memory_mb", "gpus")},
    }


def spent(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean seconds of a trial and of the engine's work for it, and by its number of turns the mean tokens of all its prompts and how many
    of them came from the prefix cache. What turn n adds is the difference to trials of n - 1 turns."""
    known = [r for r in results if "usage" in r["info"] and "model_s" in r["info"]["usage"]]
    if not known:
        return {}
    usage = [r["info"]["usage"] for r in known]
    by_turns = {}
    for turns in sorted({r["turns"] for r in known}):
        own = [r["info"]["usage"] for r in known if r["turns"] == turns]
        by_turns[str(turns)] = {
            "trials": len(own),
            "prompt_tokens": round(mean(u["prompt_tokens"] for u in own), 1),
            "cached_tokens": round(mean(u["cached_tokens"] for u in own), 1),
        }
    return {
        "agent_s": round(mean(r["timing"]["agent_s"] for r in known), 3),
        "engine_s": round(mean(u["model_s"] for u in usage), 3),
        "prefix_hits": round(sum(u["cached_tokens"] for u in usage) / sum(u["prompt_tokens"] for u in usage), 4),
        "by_turns": by_turns,
    }


def gpu_share(run: RunDir, path: Path) -> dict[str, float | int]:
    """Mean utilisation in percent while trials run and while weights change, and the most memory in use, over the run's last start."""
    events = list(read_events(run.events_of("trainer")))
    first = max(i for i, event in enumerate(events) if event["kind"] == "trainer.start")
    begun: dict[int, float] = {}
    paused: dict[int, float] = {}
    windows: dict[str, list[tuple[float, float]]] = {"rollout": [], "update": []}
    for event in events[first:]:
        step, at = event.get("step"), event["time"]
        if event["kind"] == "step.begin":
            begun[step] = at
        elif event["kind"] == "engine.paused" and step in begun:
            windows["rollout"].append((begun.pop(step), at))
            paused[step] = at
        elif event["kind"] == "engine.resumed" and step in paused:
            windows["update"].append((paused.pop(step), at))
    rows = []
    for when, busy, memory in csv.reader(path.open()):
        rows.append((datetime.strptime(when, "%Y/%m/%d %H:%M:%S.%f").replace(tzinfo=UTC).timestamp(), int(busy), int(memory)))
    shares = {
        f"{phase}_busy_percent": mean(busy for at, busy, _ in rows if any(low <= at <= high for low, high in spans))
        for phase, spans in windows.items()
    }
    return {**shares, "memory_used_max_mib": max(memory for *_, memory in rows)}


def settled(run: RunDir) -> list[dict[str, Any]]:
    lines = (json.loads(line) for line in run.trials_journal.read_text().splitlines())
    return [entry["result"] for entry in lines if entry["kind"] == "settled"]


def first_command(run: RunDir, config: Any, trial: str) -> str:
    """The first command of a trial, from its trajectory; empty where the agent ran none."""
    path = run.trials / config.experiment.project_name / config.experiment.exp_name / trial / "agent" / "trajectory.json"
    if not path.exists():
        return ""
    for step in json.loads(path.read_text())["steps"]:
        for call in step.get("tool_calls") or []:
            return str(call["arguments"].get("command", ""))
    return ""


def table(found: dict[str, Any]) -> str:
    lines = [
        "| run | step | resolve rate | 95 % | pass@4 | reads first | edits | passes, given an edit |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, run in found.items():
        for v in run["validations"]:
            rate, given = v["resolve_rate"], v["passed_given_edit"]
            lines.append(
                f"| {name} | {v['step']} | {rate['value']:.3f} | {rate['low']:.3f} to {rate['high']:.3f} | {v['pass_at'].get('4', 0):.3f} "
                f"| {v['reads_first']:.3f} | {v['edited']:.3f} | {'' if given is None else f'{given:.3f}'} |"
            )
    seeds = [run["validations"] for name, run in found.items() if not name.startswith("control")]
    for position in range(min(map(len, seeds), default=0)):
        at = [validations_of[position] for validations_of in seeds]
        lines.append(
            f"| **mean of {len(seeds)}** | {at[0]['step']} | **{mean(v['resolve_rate']['value'] for v in at):.3f}** | "
            f"| **{mean(v['pass_at']['4'] for v in at):.3f}** | {mean(v['reads_first'] for v in at):.3f} "
            f"| {mean(v['edited'] for v in at):.3f} | **{mean(v['passed_given_edit'] for v in at):.3f}** |"
        )
    return "\n".join(lines)


def curve(found: dict[str, Any]) -> str:
    """Resolve rate by step with its interval, as SVG."""
    last = max(v["step"] for run in found.values() for v in run["validations"]) or 1

    def x(step: float) -> float:
        return LEFT + (WIDTH - LEFT - 150) * step / last

    def y(rate: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - 20) * rate / 0.8

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for tick in (0, 0.2, 0.4, 0.6, 0.8):
        parts.append(f'<line x1="{LEFT}" x2="{x(last):.0f}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick}</text>')
    for step in sorted({v["step"] for run in found.values() for v in run["validations"]}):
        parts.append(f'<text x="{x(step):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{step}</text>')
    parts.append(f'<text x="{x(last / 2):.0f}" y="{HEIGHT - 8}" text-anchor="middle">step</text>')
    parts.append(f'<text x="{LEFT}" y="14">resolve rate on held-out tasks, temperature 1, with 95 % intervals</text>')
    for index, (name, run) in enumerate(found.items()):
        colour = COLOURS[index % len(COLOURS)]
        dash = ' stroke-dasharray="5 4"' if name.startswith("control") else ""
        points = [(x(v["step"]) + 2 * index, v["resolve_rate"]) for v in run["validations"]]
        line = " ".join(f"{px:.1f},{y(rate['value']):.1f}" for px, rate in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
        for px, rate in points:
            parts.append(f'<line x1="{px:.1f}" x2="{px:.1f}" y1="{y(rate["low"]):.1f}" y2="{y(rate["high"]):.1f}" stroke="{colour}"/>')
            parts.append(f'<circle cx="{px:.1f}" cy="{y(rate["value"]):.1f}" r="3" fill="{colour}"/>')
        place = 40 + 20 * index
        parts.append(f'<line x1="{WIDTH - 135}" x2="{WIDTH - 110}" y1="{place}" y2="{place}" stroke="{colour}" stroke-width="2"{dash}/>')
        parts.append(f'<text x="{WIDTH - 104}" y="{place + 4}">{name}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    sys.exit(main())
