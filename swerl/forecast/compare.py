"""Forecast against reality: what a run measured, beside what its own configuration let one foresee.

Read are the run's configuration snapshot, ``metrics.jsonl``, events and checkpoints. Where the policy's ``config.json`` is gone from its
place, a checkpoint's copy is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from swerl.config import RunConfig, load_resolved
from swerl.errors import fail
from swerl.facts.memory import GIB, Forecast, Plan, size
from swerl.forecast.outlook import outlook
from swerl.forecast.rates import Trial, assumed_trials, measured_trial
from swerl.record.checkpoints import directories
from swerl.record.events import read_events
from swerl.record.metrics import read_metrics
from swerl.record.rundir import RunDir
from swerl.record.words import duration

PHASES = ("gen", "old_log_prob", "update_actor", "update_weights")


@dataclass(frozen=True, slots=True)
class Row:
    """One quantity. ``unit`` is bytes, seconds, trials an hour or trials; ``foreseen`` and ``measured`` are numbers of it."""

    what: str
    unit: str
    foreseen: float
    measured: float

    @property
    def ratio(self) -> float:
        return self.foreseen / self.measured if self.measured else float("inf")


def compared(run: RunDir, foresee: Callable[[RunConfig, Path], Forecast]) -> list[Row]:
    """Rows for what the run measured, the memory first. ``foresee`` takes a configuration and the policy's ``config.json``. SWERL-R031 for
    a run without a trained step."""
    rows, events = training_rows(run), _events(run)
    config = load_resolved(run.resolved)
    foreseen = foresee(config, _shape_of(run, config.model.model_path))
    expected = outlook(foreseen).expected
    measured = outlook(foreseen, trial=trial_of_run(run, foreseen.plan)).expected
    validation_s = _validation_s(events) / len(rows)
    step_s = (_mean(rows, "timing_s/step") or 0.0) + validation_s  # verl's time of a step ends before its validation
    found: list[Row | None] = [
        _row("trainer memory", "bytes", foreseen.trainer_process_bytes, _most(rows, "actor/perf/max_memory_reserved_gb", GIB)),
        _row("engine memory", "bytes", foreseen.engine_process_bytes, _engine_bytes(events, foreseen.plan)),
        _row("checkpoint", "bytes", foreseen.disk.save_bytes, _saved(run)),
        _row("memory of all processes", "bytes", foreseen.host.total_bytes, _most_event(events, "run.memory", "peak_mb", 2**20)),
        _row("trials a step", "trials", foreseen.trials_per_step, _mean(rows, "swerl/trials/count")),
        _row("a step", "seconds", expected.step.step_s, step_s),
        _row("a step, trials as measured", "seconds", measured.step.step_s, step_s),
        *(_row(f"  {name}", "seconds", measured.step.phases[name], _mean(rows, f"timing_s/{name}")) for name in PHASES),
        _row("  validation", "seconds", measured.step.phases["validation"], validation_s),
        _row("trials an hour", "per hour", expected.trials_per_hour, _trials_per_hour(rows, step_s)),
        _row("the whole run", "seconds", expected.wall_s, _whole_s(events)),
    ]
    return [row for row in found if row is not None]


def trial_of_run(run: RunDir, plan: Plan) -> Trial:
    """The mean trial of a run, for forecasts of others."""
    seconds = [
        event["total_s"] - event["queue_s"]
        for event in _events(run)
        if event["kind"] == "trial.settled" and event["split"] == "train" and event["total_s"] is not None
    ]
    return measured_trial(training_rows(run), seconds, assumed_trials(plan)[1])


def training_rows(run: RunDir) -> list[Mapping[str, Any]]:
    if not run.manifest.exists():
        raise fail("SWERL-R016", f"there is no run {run.id}", "swerl status lists the runs", where=str(run.root))
    rows = [row.data for row in read_metrics(run.metrics) if row.step >= 1]
    if not rows:
        raise fail("SWERL-R031", "the run has trained no step, so nothing was measured", "name a run that has", str(run.metrics))
    return rows


def render_comparison(rows: Iterable[Row]) -> str:
    lines = [f"{'':<28} {'foreseen':>12} {'measured':>12}  ratio"]
    for row in rows:
        lines.append(f"{row.what:<28} {_said(row.foreseen, row.unit):>12} {_said(row.measured, row.unit):>12}  {row.ratio:.2f}")
    return "\n".join(lines)


def _said(number: float, unit: str) -> str:
    if unit == "bytes":
        return size(number)
    if unit == "seconds":
        return f"{number:.1f} s" if number < 100 else duration(number)
    return f"{number:,.0f}"


def _row(what: str, unit: str, foreseen: float | None, measured: float | None) -> Row | None:
    return None if foreseen is None or not measured else Row(what, unit, float(foreseen), float(measured))


def _events(run: RunDir) -> list[dict[str, Any]]:
    return [event for path in run.events.glob("*.jsonl") for event in read_events(path)]


def _shape_of(run: RunDir, policy: Path) -> Path:
    copies = [file for path in directories(run.checkpoints) if (file := path / "actor" / "huggingface" / "config.json").is_file()]
    here = policy / "config.json"
    return here if here.exists() or not copies else copies[-1]


def _mean(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    found = [float(row[name]) for row in rows if row.get(name) is not None]
    return mean(found) if found else None


def _most(rows: Sequence[Mapping[str, Any]], name: str, unit: int) -> float | None:
    return max((float(row[name]) * unit for row in rows if row.get(name)), default=None)


def _most_event(events: Iterable[Mapping[str, Any]], kind: str, name: str, unit: int) -> float | None:
    return max((event[name] * unit for event in events if event["kind"] == kind and event.get(name)), default=None)


def _engine_bytes(events: list[dict[str, Any]], plan: Plan) -> float | None:
    if plan.cpu:
        return _most_event(events, "run.memory", "engine_mb", 2**20)
    cards = [gpu["memory_mb"] for event in _while_sampling(events) for gpu in event.get("gpus") or ()]
    return max(cards) * 2**20 if cards else None


def _while_sampling(events: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """The supervisor's looks at the cards while the engine has them; in an update they are the trainer's."""
    up = False
    for event in sorted(events, key=lambda event: event["time"]):
        if event["kind"] in ("engine.ready", "engine.resumed"):
            up = True
        elif event["kind"] in ("engine.paused", "trainer.start", "trainer.end"):
            up = False
        elif event["kind"] == "sample" and up:
            yield event


def _saved(run: RunDir) -> float | None:
    """Bytes of the newest checkpoint, all its files."""
    folders = directories(run.checkpoints)
    return sum(path.stat().st_size for path in folders[-1].rglob("*") if path.is_file()) if folders else None


def _trials_per_hour(rows: Sequence[Mapping[str, Any]], step_s: float) -> float | None:
    count = _mean(rows, "swerl/trials/count")
    return 3600 * count / step_s if step_s and count else None


def _validation_s(events: Iterable[Mapping[str, Any]]) -> float:
    """Seconds of all validations that came to an end."""
    return sum(_spans(events, "validation.begin", ("validation.end",)))


def _whole_s(events: Sequence[Mapping[str, Any]]) -> float | None:
    """Seconds of a run that went through without a break; None for another."""
    lives = list(_spans(events, "run.running", ("run.completed", "run.failed", "run.interrupted")))
    return lives[0] if len(lives) == 1 and any(event["kind"] == "run.completed" for event in events) else None


def _spans(events: Iterable[Mapping[str, Any]], begin: str, end: Sequence[str]) -> Iterator[float]:
    began = None
    for event in sorted(events, key=lambda event: event["time"]):
        if event["kind"] == begin:
            began = event["time"]
        elif event["kind"] in end and began is not None:
            yield event["time"] - began
            began = None
