"""Where a run stands, folded from its events and metrics. Times are seconds since the epoch, as events carry them.

The trainer's phases, from its own events::

    boot ──engine.ready──▶ between ──step.begin──▶ sample ──engine.paused──▶ update ──engine.resumed──▶ between
                              │ validation.begin ──▶ validate ──validation.end──▶ between

A process that was started and has not said ``trainer.start`` yet boots; one that has said ``trainer.end`` is ``ending`` until it is gone.
``up_since`` is when the engine last began to answer (None while it is away), ``awake_since`` when the watchdog looked again after a long
while: a machine that slept did not hang. A fold never looks at the clock: what has not happened for a while is for the rules to see, with
``now`` in their hands.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

TRAINED = "actor/grad_norm"  # a row that has it is of a training step, not of a validation alone
SAMPLES_KEPT = 4096
WINDOW_TOKENS = 200_000  # prompt tokens over which a hit rate is taken


@dataclass(frozen=True, slots=True)
class Settled:
    """One trial that came to its end."""

    time: float
    split: str
    task: str
    outcome: str
    reward: float | None
    in_loss: bool
    turns: int
    setup_s: float


@dataclass(slots=True)
class Picture:
    """``rows`` are training rows by step (a step trained again replaces its row), ``trials`` the settled training trials by step,
    ``hit_rates`` those of the prefix cache over windows of prompt tokens, oldest first."""

    began: float
    phase: str = ""
    phase_since: float = 0.0
    up_since: float | None = None
    replicas: int | None = None
    boot_silent: Mapping[str, Any] | None = None  # the event, until the engine is up or another start begins
    engine_died: str | None = None  # why, until one is up again
    step: int | None = None
    restored: int = 0  # the step that the trainer's last start went on from
    rows: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    validations: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    trials: dict[int, list[Settled]] = field(default_factory=lambda: defaultdict(list))
    setups_s: list[float] = field(default_factory=list)
    running: dict[str, float] = field(default_factory=dict)
    last_settled: float = 0.0
    awake_since: float = 0.0
    samples: deque[Mapping[str, Any]] = field(default_factory=lambda: deque(maxlen=SAMPLES_KEPT))
    hit_rates: list[float] = field(default_factory=list)
    lost_nodes: set[int] = field(default_factory=set)
    _counted: tuple[int, int] | None = None

    def remember(self, rows: Iterable[tuple[int, Mapping[str, Any]]]) -> None:
        """Take in rows of an earlier start of the run: the past that later steps are compared with."""
        for step, data in rows:
            self.take_row(step, data)

    def take_row(self, step: int, data: Mapping[str, Any]) -> None:
        if TRAINED in data:
            self.rows[step] = data
        if "swerl/val/coverage" in data:
            self.validations[step] = data

    def take_event(self, event: Mapping[str, Any]) -> None:
        fold = _FOLDS.get(event["kind"])
        if fold is not None:
            fold(self, event)

    def enter(self, phase: str, at: float) -> None:
        if phase != self.phase:
            self.phase, self.phase_since = phase, at

    def before(self, step: int) -> list[Mapping[str, Any]]:
        """Training rows of earlier steps, oldest first."""
        return [self.rows[n] for n in sorted(self.rows) if n < step]

    def waited_s(self, now: float, *since: float) -> float:
        """Seconds since the last of these times at which the machine was awake."""
        return now - max(self.awake_since, *since)

    def recent(self, seconds: float, now: float) -> list[Mapping[str, Any]] | None:
        """Samples of the last ``seconds``, newest first; None unless they reach back that far."""
        if not self.samples or self.samples[0]["time"] > now - seconds:
            return None
        return list(takewhile(lambda sample: sample["time"] >= now - seconds, reversed(self.samples)))


def _trainer_start(picture: Picture, event: Mapping[str, Any]) -> None:
    picture.up_since, picture.replicas = None, None
    picture.step = event.get("restored_step") or None
    picture.restored = picture.step or 0
    picture.enter("boot", event["time"])


def _engine_ready(picture: Picture, event: Mapping[str, Any]) -> None:
    picture.up_since, picture.replicas = event["time"], event.get("replicas")
    picture.engine_died = picture.boot_silent = None
    picture.enter("between", event["time"])


def _engine_died(picture: Picture, event: Mapping[str, Any]) -> None:
    picture.up_since, picture.engine_died = None, f"{event['replica']}: {event['cause']}"


def _paused(picture: Picture, event: Mapping[str, Any]) -> None:
    picture.up_since = None
    picture.enter("update", event["time"])


def _resumed(picture: Picture, event: Mapping[str, Any]) -> None:
    picture.up_since = event["time"]
    picture.enter("between", event["time"])


def _step_begin(picture: Picture, event: Mapping[str, Any]) -> None:
    picture.step = event["step"]
    picture.enter("sample", event["time"])


def _boot_silent(picture: Picture, event: Mapping[str, Any]) -> None:
    picture.boot_silent = event


def _process_started(picture: Picture, event: Mapping[str, Any]) -> None:
    if event.get("process") == "trainer":
        picture.boot_silent = None
        picture.up_since, picture.replicas = None, None
        picture.enter("boot", event["time"])


def _gone(picture: Picture, event: Mapping[str, Any]) -> None:
    if event.get("process") == "trainer":
        picture.up_since = None
        picture.enter("", event["time"])
    elif event.get("process") == "runner":
        picture.running.clear()


def _started(picture: Picture, event: Mapping[str, Any]) -> None:
    picture.running[event["trial"]] = event["time"]


def _failed(picture: Picture, event: Mapping[str, Any]) -> None:
    picture.running.pop(event["trial"], None)


def _settled(picture: Picture, event: Mapping[str, Any]) -> None:
    picture.running.pop(event["trial"], None)
    picture.last_settled = event["time"]
    one = Settled(
        time=event["time"],
        split=event["split"],
        task=event["task_hash"],
        outcome=event["outcome"],
        reward=event["reward"],
        in_loss=event["in_loss"],
        turns=event["turns"] or 0,
        setup_s=event["setup_s"] or 0.0,
    )
    if one.setup_s > 0:
        picture.setups_s.append(one.setup_s)
    if one.split == "train":
        picture.trials[event["step"]].append(one)


def _sample(picture: Picture, event: Mapping[str, Any]) -> None:
    picture.samples.append(event)
    gateway = event.get("gateway") or {}
    if gateway.get("prompt_tokens") is None:
        return
    prompt, cached = gateway["prompt_tokens"], gateway["cached_tokens"]
    before = picture._counted
    if before is None or prompt < before[0]:  # a gateway that was started again counts anew
        picture._counted = (prompt, cached)
    elif prompt - before[0] >= WINDOW_TOKENS:
        picture.hit_rates.append((cached - before[1]) / (prompt - before[0]))
        picture._counted = (prompt, cached)


def _phase(name: str) -> Callable[[Picture, Mapping[str, Any]], None]:
    return lambda picture, event: picture.enter(name, event["time"])


_FOLDS: dict[str, Callable[[Picture, Mapping[str, Any]], None]] = {
    "process.started": _process_started,
    "trainer.start": _trainer_start,
    "engine.ready": _engine_ready,
    "boot.silent": _boot_silent,
    "engine.died": _engine_died,
    "engine.paused": _paused,
    "engine.resumed": _resumed,
    "step.begin": _step_begin,
    "validation.begin": _phase("validate"),
    "validation.end": _phase("between"),
    "run.stopped": _phase("ending"),
    "trainer.end": _phase("ending"),
    "process.ended": _gone,
    "trial.started": _started,
    "trial.failed": _failed,
    "trial.settled": _settled,
    "sample": _sample,
    "cluster.lost": lambda picture, event: picture.lost_nodes.add(event["rank"]),
}
