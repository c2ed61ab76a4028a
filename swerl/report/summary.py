"""What one run came to: everything a report shows, as plain data without secrets.

``summary_of(run)`` reads a run's own files through an index of its own, or, in an archive, the ``summary.json`` that was written when the
archive was made. An archive without one is read like a run, as far as its files go.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import orjson

from swerl.artifacts.sample import choose
from swerl.dashboard.context import Seen, json_of
from swerl.dashboard.index import RunIndex, wait_until_read
from swerl.dashboard.panels import UNITS
from swerl.dashboard.views import alarms, cost, curves, overview, tasks, trial, trials
from swerl.errors import fail
from swerl.record.redact import known_secrets, redact, redacted
from swerl.record.results import RESOLVED_AT, Trial
from swerl.record.rundir import RunDir

FORMAT = 1
NAME = "summary.json"
MAX_TASKS = 400
MAX_STEPS = 120
MAX_FILE_CHARS = 4000


@dataclass(frozen=True, slots=True)
class Summary:
    """Times are seconds since the epoch. ``series`` maps a metric to [step, value] pairs; the other lists are the dashboard's views of the
    same names; ``samples`` are trials with transcripts."""

    run: str
    project: str | None
    state: str
    problem: str | None
    attempts: int
    started: float | None
    ended: float | None
    step: int
    total_steps: int | None
    commit: str | None
    dirty: bool | None
    host: Mapping[str, Any]
    versions: Mapping[str, Any]
    command: list[str]
    series: Mapping[str, list[list[float]]]
    validations: list[Mapping[str, Any]]
    rates: list[Mapping[str, Any]]
    steps: Mapping[str, list[Mapping[str, Any]]]
    tasks: Mapping[str, list[Mapping[str, Any]]]
    cost: Mapping[str, Any]
    tail: Mapping[str, Any]
    alarms: list[Mapping[str, Any]]
    config: list[Mapping[str, Any]]
    checkpoints: list[Mapping[str, Any]]
    samples: list[Mapping[str, Any]]

    def to_json(self) -> bytes:
        option = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS
        return orjson.dumps({"format": FORMAT, **asdict(self)}, option=option, default=str) + b"\n"

    @classmethod
    def from_json(cls, path: Path) -> Summary:
        """SWERL-A024 for a file that is no summary of this format."""
        found = json_of(path)
        names = {field.name for field in fields(cls)}
        if found.get("format") != FORMAT or not names <= found.keys():
            raise fail(
                "SWERL-A024", f"{path.name} is no summary of format {FORMAT}", "gather the run again: swerl artifacts RUN", str(path)
            )
        return cls(**{name: found[name] for name in names})


def summary_of(run: RunDir, samples: int = 8) -> Summary:
    """``samples`` trials go along with what was said in them. An archive's summary has those it was made with."""
    kept = run.root / NAME
    if kept.is_file():
        return Summary.from_json(kept)
    with tempfile.TemporaryDirectory(prefix="swerl-report-") as scratch:
        index = RunIndex(run, Path(scratch) / "index.sqlite")
        try:
            wait_until_read(index)
            with index.reading() as db:
                return _collect(Seen(run, db), samples)
        finally:
            index.close()


def _collect(seen: Seen, samples: int) -> Summary:
    told = overview.overview(seen)
    metadata = json_of(seen.run.root / "results.json")
    secrets = known_secrets(seen.run)
    steps = {split: trials.by_step(seen, split) for split in ("train", "val")}
    return Summary(
        run=str(seen.manifest.get("run") or seen.run.id),
        project=told["project"],
        state=told["state"],
        problem=redact(told["problem"], secrets) if told["problem"] else None,
        attempts=told["attempt"],
        started=told["first_started"],
        ended=told["ended"],
        step=told["step"] or int(metadata.get("steps") or 0),
        total_steps=told["total_steps"] or seen.value("training.total_steps"),
        commit=told["commit"],
        dirty=told["dirty"],
        host=told["host"] or {},
        versions=told["versions"] or {},
        command=[redact(str(word), secrets) for word in told["command"] or []],
        series={name: [list(pair) for pair in seen.points(name).items()] for name in UNITS},
        validations=curves.validations(seen) or _told_validations(seen),
        rates=curves.resolve_rates(seen),
        steps={split: list(map(_plain, found)) for split, found in steps.items()},
        tasks={split: redacted(tasks.grid(seen, split)["tasks"][:MAX_TASKS], secrets) for split in ("train", "val")},
        cost=cost.cost(seen),
        tail=trials.tail(seen),
        alarms=redacted(alarms.alarms(seen, live=False), secrets),
        config=redacted(overview.configuration(seen), secrets),
        checkpoints=told["checkpoints"],
        samples=[redacted(_sample(found), secrets) for key in _chosen(seen, samples) if (found := trial.trial(seen, key)) is not None],
    )


def _told_validations(seen: Seen) -> list[dict[str, Any]]:
    """Where no journal is at hand: what the trainer's metrics say of validations."""
    parts = {name: seen.points(f"swerl/val/{name}") for name in ("resolve_rate", "resolve_rate/low", "resolve_rate/high", "coverage")}
    passes = {str(k): seen.points(f"swerl/val/pass_at_{k}") for k in (1, 2, 4, 8, 16)}
    return [
        {
            "step": step,
            "value": value,
            "low": parts["resolve_rate/low"].get(step),
            "high": parts["resolve_rate/high"].get(step),
            "resolved": None,
            "graded": None,
            "coverage": (coverage := parts["coverage"].get(step)),
            "published": coverage is not None and coverage >= curves.PUBLISHED_COVERAGE,
            "pass_at": {k: points[step] for k, points in passes.items() if step in points},
        }
        for step, value in parts["resolve_rate"].items()
    ]


def _chosen(seen: Seen, limit: int) -> list[str]:
    """Names of trials worth reading: the same choice as an archive's, from the newest of each kind."""
    found = []
    for split in ("train", "val"):
        for kind in ("reward >= ?", "reward < ?", "reward IS NULL AND ? > 0"):
            rows = seen.rows(
                f"SELECT key, task, sample, version, outcome, reward FROM trials WHERE split = '{split}' AND total_s IS NOT NULL"
                f" AND {kind} ORDER BY step DESC, sample, task LIMIT ?",
                RESOLVED_AT,
                limit,
            )
            found += [Trial(split, r["task"], r["sample"], r["version"], r["outcome"], r["reward"], name=r["key"]) for r in rows]
    return [one.name for one in choose(found, limit)]


def _sample(found: Mapping[str, Any]) -> dict[str, Any]:
    """What a reader wants of one trial, each text cut."""
    kept = ("key", "task_id", "split", "step", "sample", "version", "outcome", "reward", "fate", "turns", "total_s", "agent_s", "error")
    transcript = found["transcript"] or []
    return {
        **{name: found[name] for name in kept},
        "transcript": transcript[:MAX_STEPS],
        "left_out": max(0, len(transcript) - MAX_STEPS),
        "transcript_from": found["transcript_from"],
        "changes": found["changes"],
        "files": [{"name": f["name"], "text": f["text"][-MAX_FILE_CHARS:]} for f in found["files"] if f["name"].startswith("verifier/")],
        "findings": found["more"].get("findings") or [],
    }


def _plain(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: dict(value) if isinstance(value, Mapping) else value for name, value in entry.items()}
