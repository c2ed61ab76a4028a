"""What needs a person's eye, each with its evidence and where to look: things that happened, and signs in the metrics.

A rule is a function from `Seen` to alarms; rules of signs give thresholds and numbers, never a bare warning.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

import orjson

from swerl.dashboard.context import Seen
from swerl.dashboard.sums import MIN_GROUP

Alarm = dict[str, Any]
PEARSON = "training/rollout_actor_probs_pearson_corr"
PEARSON_LOW = 0.99
SIGNAL_LOW = 0.2
COVERAGE_LOW = 0.95
FAILED_HIGH = 0.1
RECENT = 3
DISK_FREE_LOW = 0.05
SILENT_FACTOR = 3.0
SILENT_LEAST_S = 300.0


def alarms(seen: Seen, live: bool) -> list[Alarm]:
    """Newest first, the grave ones before the others."""
    found = [alarm for rule in RULES for alarm in rule(seen)]
    if live:
        found += [alarm for rule in LIVE_RULES for alarm in rule(seen)]
    return sorted(found, key=lambda a: (a["severity"] != "bad", -(a["time"] or 0)))


def _alarm(severity: str, title: str, evidence: str, time_: float | None = None, step: int | None = None, **link: Any) -> Alarm:
    return {"severity": severity, "title": title, "evidence": evidence, "time": time_, "step": step, "link": link}


def _events(seen: Seen, *kinds: str, limit: int = 20) -> Iterator[tuple[Any, dict[str, Any]]]:
    marks = ",".join("?" * len(kinds))
    rows = seen.rows(f"SELECT time, kind, step, data FROM events WHERE kind IN ({marks}) ORDER BY time DESC LIMIT ?", *kinds, limit)
    for row in rows:
        try:
            yield row, orjson.loads(row["data"])
        except orjson.JSONDecodeError:  # a field too long to keep whole
            yield row, {}


def _deaths(seen: Seen) -> Iterator[Alarm]:
    for row, data in _events(seen, "process.died"):
        process = str(data.get("process", "a process"))
        said = f"{data.get('how', 'it ended')}; {data.get('next', '')}".rstrip("; ")
        yield _alarm("warn", f"{process} died", said, row["time"], row["step"], panel="logs", log=process)


def _failures(seen: Seen) -> Iterator[Alarm]:
    row = seen.row
    if row is not None and row.problem:
        yield _alarm("bad", f"the run {row.state}", row.problem, row.ended, row.step, panel="logs", log="trainer", search="error")
    for event, data in _events(seen, "trainer.failed", limit=3):
        problems = data.get("problems") or [{}]
        said = f"{problems[0].get('id', '')} {problems[0].get('message', '')}".strip()
        yield _alarm("bad", "the trainer failed", said, event["time"], event["step"], panel="logs", log="trainer", search="error")


def _trial_trouble(seen: Seen) -> Iterator[Alarm]:
    for row, data in _events(seen, "breaker.open", limit=3):
        yield _alarm(
            "bad", "trials were stopped", f"{data.get('id', '')} {data.get('message', '')}", row["time"], row["step"], panel="trials"
        )
    for row, data in _events(seen, "task.quarantined"):
        said = f"{data.get('attempts')} attempts failed; the first: {data.get('error')}"
        yield _alarm("warn", f"task {data.get('task')} is quarantined", said, row["time"], row["step"], panel="tasks")
    failed = list(_events(seen, "group.failed", limit=500))
    if failed:
        row, data = failed[0]
        said = f"{len(failed)} groups gave nothing to train; the newest, of {data.get('task')}: {data.get('cause')}"
        yield _alarm("warn", "groups failed", said, row["time"], row["step"], panel="trials")


def _signs(seen: Seen) -> Iterator[Alarm]:
    correlation = seen.points(PEARSON)
    low = {step: value for step, value in correlation.items() if value < PEARSON_LOW}
    if low:
        step = max(low)
        said = f"{low[step]:.4f} at step {step}; {len(low)} of {len(correlation)} steps are below {PEARSON_LOW}"
        yield _alarm("bad", "engine and trainer disagree about probabilities", said, None, step, panel="curves", metric=PEARSON)
    rate = seen.points("actor/lr")
    if rate and max(rate) > 1 and rate[max(rate)] == 0:
        yield _alarm("bad", "the learning rate is 0", f"at step {max(rate)}", None, max(rate), panel="curves", metric="actor/lr")
    coverage = seen.points("swerl/val/coverage")
    if coverage and coverage[max(coverage)] < COVERAGE_LOW:
        step = max(coverage)
        said = f"{coverage[step]:.1%} of its trials have a verdict; below {COVERAGE_LOW:.0%} a rate is not compared"
        yield _alarm("warn", f"the validation of step {step} is thin", said, None, step, panel="curves", metric="swerl/val/coverage")


def _groups(seen: Seen) -> Iterator[Alarm]:
    rows = seen.rows(
        "SELECT step, count(*), sum(signal) FROM groups WHERE split = 'train' AND graded >= ? GROUP BY step ORDER BY step DESC LIMIT ?",
        MIN_GROUP,
        RECENT,
    )
    groups, signal = sum(row[1] for row in rows), sum(row[2] for row in rows)
    if len(rows) == RECENT and signal / groups < SIGNAL_LOW:
        said = f"{signal} of {groups} groups of the last {RECENT} steps have rewards that differ"
        yield _alarm("warn", "hardly any group gives a signal", said, None, rows[0][0], panel="tasks")
    rows = seen.rows(
        "SELECT step, sum(trials), sum(CASE fate WHEN 'failed' THEN trials ELSE 0 END) FROM steps WHERE split = 'train'"
        " GROUP BY step ORDER BY step DESC LIMIT ?",
        RECENT,
    )
    trials, failed = sum(row[1] for row in rows), sum(row[2] for row in rows)
    if trials and failed / trials > FAILED_HIGH:
        said = f"{failed} of {trials} trials of the last {len(rows)} steps have no verdict"
        yield _alarm("warn", "many trials fail", said, None, rows[0][0], panel="trials", outcome="infra_failed")


def _findings(seen: Seen) -> Iterator[Alarm]:
    found = seen.one("SELECT sum(findings > 0) FROM trials WHERE findings > 0")
    resolved = seen.one("SELECT count(*) FROM trials WHERE findings > 0 AND reward >= 1")
    if found:
        said = f"{found} trials, {resolved} of them resolved; verdicts do not depend on these findings"
        yield _alarm("note", "the detectors found something", said, None, None, panel="trials", findings="1")


def _disk(seen: Seen) -> Iterator[Alarm]:
    usage = shutil.disk_usage(seen.run.root)
    if usage.free < DISK_FREE_LOW * usage.total:
        said = f"{usage.free / 1e9:.1f} GB of {usage.total / 1e9:.0f} GB are free where the run is"
        yield _alarm("bad", "the disk is nearly full", said, time.time(), None, panel="engine")


def _silence(seen: Seen) -> Iterator[Alarm]:
    """Nothing happened for much longer than a step takes."""
    last = max(
        seen.one("SELECT max(time) FROM events WHERE kind != 'run.memory'") or 0,
        seen.one("SELECT max(last) FROM counts WHERE kind LIKE 'trial.%'") or 0,
    )
    steps = list(seen.points("timing_s/step").values())[-10:]
    limit = max(SILENT_LEAST_S, SILENT_FACTOR * (sum(steps) / len(steps) if steps else 0))
    if last and time.time() - last > limit:
        said = f"no event for {time.time() - last:.0f} s; expected one within {limit:.0f} s"
        yield _alarm("bad", "the run is silent", said, last, None, panel="logs", log="trainer")


RULES: tuple[Callable[[Seen], Iterator[Alarm]], ...] = (_failures, _deaths, _trial_trouble, _signs, _groups, _findings)
LIVE_RULES: tuple[Callable[[Seen], Iterator[Alarm]], ...] = (_disk, _silence)
