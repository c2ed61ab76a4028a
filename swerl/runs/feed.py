"""What a running run has to say: new events and metrics turned into lines for a person, and a picture of where it stands.

Reads only what processes wrote for readers (``events/*.jsonl``, ``metrics.jsonl``), and no log.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swerl.errors import Problem
from swerl.record import pace
from swerl.record.follow import Place, place_at_end, read
from swerl.record.ledger import object_of
from swerl.record.metrics import is_row
from swerl.record.rundir import RunDir
from swerl.record.words import duration

RESOLVE_RATE = "swerl/val/resolve_rate"
EVALUATING = "evaluating"
_REWARDS = ("critic/score/mean", "critic/rewards/mean")


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much work there is: trials of a step and of a validation, how many run at once (0: not known), steps between validations."""

    step: int = 0
    validation: int = 0
    at_once: int = 0
    validate_every: int = 0


@dataclass(slots=True)
class Progress:
    """Where the run stands. ``phase`` is words for a person; ``phase_since`` is monotonic."""

    phase: str = "starting"
    phase_since: float = field(default_factory=time.monotonic)
    step: int | None = None
    total_steps: int | None = None
    resolve_rate: float | None = None
    reward: float | None = None
    steps: dict[int, float] = field(default_factory=dict)  # seconds of each that is done
    validation_s: float | None = None  # the newest one
    validation_began: float | None = None  # by its event's time
    sizes: Sizes = Sizes()
    trials: int = 0
    expected: int = 0  # trials of the phase, where that is known, and how many of them run at once
    at_once: int = 0
    at_most_s: float | None = None  # how long the phase may take until the watchdog ends it, where that is one wait
    boot_s: float | None = None  # the same for the trainer's boot
    engine_up: bool = False  # since the trainer's last start
    trainer_spoke: bool = False  # it said itself why it ends
    engine_died: float | None = None  # when that was seen (monotonic), until the trainer's next start
    broken: Problem | None = None  # why the runner answers no more requests for trials

    def enter(self, phase: str) -> None:
        if phase != self.phase:
            self.phase, self.phase_since, self.trials = phase, time.monotonic(), 0
            self.expected = self.at_once = 0
            self.at_most_s = None

    def left_s(self) -> float | None:
        """Seconds that the rest of the phase's trials will take at the pace so far; None before as many are done as run at once (half of
        all, where that is less). Those that run now count as half done."""
        rest = self.expected - self.trials
        if self.trials < self.first or rest <= 0:
            return None
        begun = min(self.at_once, rest) / 2
        return (time.monotonic() - self.phase_since) * (rest - begun) / (self.trials + begun)

    @property
    def run_left_s(self) -> float | None:
        """Seconds until the run is complete, validations counted."""
        return pace.left_s(self.step or 0, self.total_steps, pace.recent_step_s(self.steps), self.sizes.validate_every, self.validation_s)

    @property
    def first(self) -> int:
        """How many trials tell the pace."""
        return max(1, min(self.at_once, self.expected // 2))


Listener = Callable[[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]], None]


class Feed:
    """Follows one run from now on; ``poll`` returns the lines that came since the last call. ``listen`` gets the new events and rows
    themselves, events first: what happened in a step is known when its row comes."""

    def __init__(self, run: RunDir, total_steps: int | None = None, listen: Listener | None = None, sizes: Sizes = Sizes()):
        self.run, self._listen = run, listen
        self.progress = Progress(total_steps=total_steps, sizes=sizes)
        self._places = {path: place_at_end(path) for path in run.events.glob("*.jsonl")}
        self._shown: set[tuple[int, str]] = set()
        self._new_rows()

    def poll(self) -> list[str]:
        lines = []
        events, rows = self._new_events(), self._new_rows()
        if self._listen is not None:
            self._listen(events, rows)
        for event in events:
            told = _EVENTS.get(event["kind"])
            line = told(self.progress, event) if told else None
            if line:
                lines.append(line)
        return lines + [step_line(self.progress, row) for row in rows]

    def _new_events(self) -> list[dict[str, Any]]:
        found = []
        for path in sorted(self.run.events.glob("*.jsonl")):
            found += [event for event in self._new(path) if "time" in event and "kind" in event]
        return sorted(found, key=lambda event: event["time"])

    def _new_rows(self) -> list[dict[str, Any]]:
        # a resume rewrites the file, which is then read anew; most of its rows were shown before
        rows = {(row["step"], row["lineage"]): row for row in self._new(self.run.metrics) if is_row(row)}
        fresh = [row for key, row in rows.items() if key not in self._shown]
        self._shown |= rows.keys()
        return fresh

    def _new(self, path: Path) -> Iterator[dict[str, Any]]:
        for piece in read(path, self._places.get(path, Place())):
            self._places[path] = piece.place
            yield from (value for line in piece.lines if (value := object_of(line)) is not None)


def step_line(progress: Progress, row: Mapping[str, Any]) -> str:
    """One line about one row of the metrics, which ``progress`` takes in."""
    step, data = row["step"], row["data"]
    progress.step = max(step, progress.step or 0)
    parts = [f"step {step}" + (f"/{progress.total_steps}" if progress.total_steps else "")]
    reward = next((data[name] for name in _REWARDS if data.get(name) is not None), None)
    if reward is not None:
        progress.reward = float(reward)
        parts.append(f"reward {progress.reward:.3f}")
    if data.get(RESOLVE_RATE) is not None:
        progress.resolve_rate = float(data[RESOLVE_RATE])
        parts.append(f"resolve rate {progress.resolve_rate:.3f}")
    if data.get("timing_s/step") is not None:
        progress.steps[step] = float(data["timing_s/step"])
        parts.append(f"{progress.steps[step]:.1f} s")
    return "  ".join(parts)


_Teller = Callable[[Progress, Mapping[str, Any]], str | None]


def _phase(phase: str, line: str | None = None) -> _Teller:
    def tell(progress: Progress, event: Mapping[str, Any]) -> str | None:
        progress.enter(phase)
        return None if line is None else line.format_map(event)

    return tell


def _trainer_start(progress: Progress, event: Mapping[str, Any]) -> str:
    step = event.get("restored_step") or 0
    progress.step = step or None
    progress.engine_up, progress.engine_died, progress.trainer_spoke = False, None, False
    progress.enter("loading the trainer: Ray, engine, weights")
    progress.at_most_s = progress.boot_s
    return f"continues from the checkpoint of step {step}" if step else "begins with the policy as it is"


def _engine_ready(progress: Progress, event: Mapping[str, Any]) -> str:
    progress.engine_up = True
    progress.enter("first trials")
    return "engine is up"


def _engine_died(progress: Progress, event: Mapping[str, Any]) -> str:
    progress.engine_died = time.monotonic()
    progress.enter("waiting for the trainer to start again")
    return f"the engine died ({event['cause']}); {event['in_flight']} requests wait for the next one"


def _trainer_spoke(progress: Progress, event: Mapping[str, Any]) -> None:
    progress.trainer_spoke = True


def _checkpoint(progress: Progress, event: Mapping[str, Any]) -> str:
    return f"checkpoint of step {event['step']} is safe"


def _trial(progress: Progress, event: Mapping[str, Any]) -> str | None:
    progress.trials += 1
    left_s = progress.left_s() if progress.phase == EVALUATING and progress.trials == progress.first else None
    return None if left_s is None else f"{progress.trials} of {progress.expected:,} attempts: about {duration(left_s)} more"


def _evaluation_begin(progress: Progress, event: Mapping[str, Any]) -> str:
    progress.enter(EVALUATING)
    progress.expected, progress.at_once = event["left"], event["at_once"]
    whole = event["tasks"] * event["samples"]
    before = f", {whole - event['left']:,} of them settled before" if event["left"] < whole else ""
    return f"{event['tasks']:,} tasks, {event['samples']} attempts each: {whole:,}{before}"


def _step_begin(progress: Progress, event: Mapping[str, Any]) -> None:
    progress.enter(f"step {event['step']}: trials")
    progress.expected, progress.at_once = progress.sizes.step, progress.sizes.at_once


def _validation_begin(progress: Progress, event: Mapping[str, Any]) -> None:
    progress.enter("validating")
    progress.expected, progress.at_once = progress.sizes.validation, progress.sizes.at_once
    progress.validation_began = event["time"]


def _validation_end(progress: Progress, event: Mapping[str, Any]) -> None:
    if progress.validation_began is not None:
        progress.validation_s, progress.validation_began = event["time"] - progress.validation_began, None


def _breaker_open(progress: Progress, event: Mapping[str, Any]) -> str:
    progress.broken = Problem(event["id"], event["message"], event["remedy"], "events/runner.jsonl")
    return f"trials stopped: {event['id']} {event['message']}"


_EVENTS: dict[str, _Teller] = {
    "process.started": lambda progress, event: f"{event['process']} started (pid {event['pid']})",
    "process.ready": lambda progress, event: f"{event['process']} is up after {event['seconds']:.1f} s",
    "process.died": lambda progress, event: f"{event['process']} died ({event['how']}); {event['next']}",
    "trainer.start": _trainer_start,
    "trainer.failed": _trainer_spoke,
    "trainer.raised": _trainer_spoke,
    "engine.ready": _engine_ready,
    "engine.died": _engine_died,
    "boot.silent": lambda progress, event: f"the trainer has said nothing new for {duration(event['quiet_s'])}; stacks: {event['stacks']}",
    "engine.paused": _phase("updating the policy"),
    "validation.begin": _validation_begin,
    "validation.end": _validation_end,
    "step.begin": _step_begin,
    "checkpoint.committed": _checkpoint,
    "trial.settled": _trial,
    "cluster.waiting": lambda progress, event: f"on node {event['rank']} of {event['of']}: {event['command']}",
    "cluster.joined": lambda progress, event: f"node {event['rank']} has joined from {event['address']}",
    "cluster.ready": lambda progress, event: f"all {event['nodes']} nodes are there and checked",
    "breaker.open": _breaker_open,
    "host.quarantined": lambda progress, event: f"host {event['host']} is set aside after {event['attempts']} attempts: {event['error']}",
    "host.released": lambda progress, event: f"host {event['host']} is tried again: {event['why']}",
    "task.released": lambda progress, event: f"task {event['task']} is tried again: {event['why']}",
    "task.quarantined": lambda progress, event: f"task {event['task']} is quarantined after {event['attempts']} attempts: {event['error']}",
    "evaluation.begin": _evaluation_begin,
    "run.stopped": _phase("stopping", "stopped after step {step}"),
}
