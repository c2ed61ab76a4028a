"""The demonstration: a small policy learns to repair small programs, on this machine, through the same path as any other run.

Steps, each left out when what it makes is there already: policy, tasks, doctor, preflight, training, results. What a step made is kept
under ``build/demo``; the run is an ordinary run. The steps that need torch or a sandbox are processes of their own.
"""

from __future__ import annotations

import hashlib
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swerl.artifacts.gather import gather
from swerl.config import RunConfig
from swerl.errors import fail
from swerl.record.events import read_events
from swerl.record.metrics import read_metrics
from swerl.record.pace import RECENT_STEPS, recent_step_s
from swerl.record.rundir import RunDir, read_json, write_json
from swerl.record.words import duration
from swerl.report import add_report
from swerl.report.write import CURVES, PAGE
from swerl.runs.status import peak_memory_mb

PASS_AT = "4"
# Profile -> recipe of its policy (swerl/policy/recipe.py) and size of its repositories.
DEMONSTRATIONS: Mapping[str, tuple[str, str]] = {"demo-cpu": ("demo", "small"), "h100x1": ("large", "large")}
Say = Callable[[str], None]


def build_policy(config: RunConfig, recipe: str, say: Say) -> None:
    """The policy the configuration names; built again only if its recipe, seed or code changed. ``recipe`` is one of the policy room's."""
    say("1/6 policy: a small language model, warm-started from demonstrations")
    _run(config, "swerl.policy", ["--out", str(config.model.model_path), "--recipe", recipe])


def make_tasks(config: RunConfig, size: str, say: Say) -> None:
    """The tasks and indexes the configuration names; made again only if the generator changed."""
    say("2/6 tasks: small Python repositories with one bug each, hidden tests and a gold solution")
    _run(config, "swerl.data.generate", ["--out", str(config.data.data_dir), "--size", size])


def prove_tasks(config: RunConfig, say: Say, examine: Callable[..., Mapping[str, Any]], tasks: int) -> None:
    """Oracle 1, no-op 0 on tasks spread over both indexes; SWERL-R021 if not. The proof is kept with what it proved, and not repeated."""
    say("3/6 doctor: the gold solution is rewarded, doing nothing is not")
    record = config.data.data_dir / "doctor.json"
    proved = {
        "indexes": [hashlib.sha256(path.read_bytes()).hexdigest() for path in (config.data.train_index, config.data.val_index)],
        "sandbox": config.harbor_agent.environment_import_path,
        "tasks": tasks,
    }
    known = read_json(record)
    if known is not None and known["proved"] == proved:
        say(f"    proved before: {known['counts']}")
        return
    report = examine(config, tasks, 1, lambda line: say(f"    {line}"))
    if report["unsound"]:
        named = ", ".join(task["task"] for task in report["unsound"][:5])
        raise fail("SWERL-R021", f"tasks are not sound here: {named}", "swerl doctor --profile demo-cpu shows what their trials said")
    write_json(record, {"proved": proved, "counts": report["counts"]})


@dataclass(frozen=True, slots=True)
class Point:
    """One validation, as the table shows it. ``low`` and ``high`` bound the resolve rate with 95 % confidence."""

    step: int
    rate: float
    low: float
    high: float
    pass_at: float | None


@dataclass(frozen=True, slots=True)
class Results:
    """What the demonstration ends with. ``wall_s`` is the time of all attempts of the run, without policy and tasks."""

    points: tuple[Point, ...]
    steps: int
    step_s: float | None
    wall_s: float
    peak_memory_mb: int | None
    archive: Path


def collect(config: RunConfig, say: Say) -> Results:
    """Gather the run and read the results from the archive."""
    say("6/6 results")
    run = RunDir.at(config.run_dir)
    archive = gather(run.root, report=add_report)
    results = read_json(archive / "results.json")
    events = list(read_events(run.events_of("supervisor")))
    timed = {row.step: float(row.data["timing_s/step"]) for row in read_metrics(run.metrics) if row.data.get("timing_s/step") is not None}
    by_step = {v["step"]: v for v in results["validations"] if v["resolve_rate"]["value"] is not None}
    return Results(
        points=tuple(_point(by_step[step]) for step in sorted(by_step)),
        steps=results["steps"],
        step_s=recent_step_s(timed),
        wall_s=alive_s(events),
        peak_memory_mb=peak_memory_mb(events),
        archive=archive,
    )


def alive_s(events: Sequence[Mapping[str, Any]]) -> float:
    """Seconds that supervisors of the run were alive: from each ``run.running`` to the last event before the next."""
    total, began, last = 0.0, None, 0.0
    for event in events:
        if event["kind"] == "run.running":
            total += last - began if began is not None else 0.0
            began = event["time"]
        last = event["time"]
    return total + (last - began if began is not None else 0.0)


def table(results: Results, config: RunConfig) -> str:
    """The last screen of the demonstration."""
    run = RunDir.at(config.run_dir)
    lines = ["", f"{'step':>6}  {'resolve rate':>12}  {'95 %':>15}  {'pass@4':>7}   (validation, {config.training.val_n} samples a task)"]
    for point in results.points:
        at = "-" if point.pass_at is None else f"{point.pass_at:.3f}"
        lines.append(f"{point.step:>6}  {point.rate:>12.3f}  {point.low:>6.3f} to {point.high:.3f}  {at:>7}")
    if len(results.points) > 1:
        first, last = results.points[0], results.points[-1]
        gain = "" if first.pass_at is None or last.pass_at is None else f", pass@4 {last.pass_at - first.pass_at:+.3f}"
        lines.append(f"from before to after: resolve rate {last.rate - first.rate:+.3f}{gain}")
    step = "" if results.step_s is None else f", {results.step_s:.1f} s each (the last {RECENT_STEPS})"
    memory = "" if results.peak_memory_mb is None else f", {results.peak_memory_mb / 1024:.1f} GiB of memory at the most"
    lines += [
        "",
        f"trained    {results.steps} steps of {config.training.train_batch_size * config.training.n_resp_per_prompt} trials{step}",
        f"took       {duration(results.wall_s)} of training, validation and start-up{memory}",
        f"run        {run.root} (metrics.jsonl, events/, logs/, checkpoints/)",
        f"trials     {config.experiment.trials_dir}",
        f"archive    {results.archive}",
        f"report     {results.archive / PAGE}",
        f"curves     {results.archive / CURVES} (SVG and PNG)",
    ]
    return "\n".join(lines)


def _point(validation: Mapping[str, Any]) -> Point:
    rate = validation["resolve_rate"]
    at = validation["pass_at"].get(PASS_AT)
    return Point(validation["step"], rate["value"], rate["low"], rate["high"], at["value"] if at else None)


def _run(config: RunConfig, module: str, arguments: Sequence[str]) -> None:
    python = config.environment.venv_path / "bin" / "python"
    if not python.exists():
        raise fail("SWERL-R018", "there is no Python environment here", "make setup", where=str(config.environment.venv_path))
    began = time.monotonic()
    code = subprocess.run([str(python), "-P", "-m", module, *arguments]).returncode
    if code != 0:
        raise fail(
            "SWERL-R022", f"{module} ended with exit code {code} after {duration(time.monotonic() - began)}", "see its message above"
        )
