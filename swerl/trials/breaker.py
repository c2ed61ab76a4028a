"""When failures pile up: a budget of retries per step, and a breaker for one kind of failure in a row.

An open breaker ends the step loudly: every request is answered with the first cause and its evidence instead of a result, so that the run
stops rather than train on what is left. It stays open until the runner is started again.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

from swerl.errors import Problem, SwerlError
from swerl.record.events import EventLog


class BreakerOpen(SwerlError):
    """The run must not go on: the problem names the first cause."""


@dataclass(slots=True)
class _StepBook:
    asked: int = 0
    retries: int = 0
    first: str = ""


class Breaker:
    def __init__(self, limit: int, budget: float, step_trials: int, events: EventLog):
        self._limit, self._budget, self._step_trials, self._events = limit, budget, step_trials, events
        self._steps: dict[tuple[str, int], _StepBook] = defaultdict(_StepBook)
        self._in_a_row: list[tuple[str, str, str]] = []  # kind, trial, error
        self.problem: Problem | None = None

    def check(self) -> None:
        if self.problem is not None:
            raise BreakerOpen(self.problem)

    def asked(self, split: str, step: int) -> None:
        self._steps[split, step].asked += 1

    def allowance(self, split: str, step: int) -> int:
        """Retries the step may spend in all: a share of its trials, counted as planned for training and as asked for validation."""
        trials = max(self._steps[split, step].asked, self._step_trials if split == "train" else 0)
        return math.ceil(self._budget * trials)

    def may_retry(self, split: str, step: int, error: str) -> bool:
        """Takes one retry from the step's budget. False, and the breaker opens, when there is none left."""
        book = self._steps[split, step]
        book.first = book.first or error
        if book.retries >= self.allowance(split, step):
            said = f"step {step} ({split}) has used up its {book.retries} retries; the first failure: {book.first}"
            self._open("SWERL-T040", said if error == book.first else f"{said}; the last: {error}")
            return False
        book.retries += 1
        return True

    def good(self) -> None:
        """An attempt ended by itself, whatever its reward: the machinery works."""
        self._in_a_row.clear()

    def failed(self, kind: str, trial: str, error: str) -> None:
        if self._in_a_row and self._in_a_row[0][0] != kind:
            self._in_a_row.clear()
        self._in_a_row.append((kind, trial, error))
        if len({name for _, name, _ in self._in_a_row}) >= self._limit:
            first = self._in_a_row[0]
            self._open("SWERL-T041", f"{len(self._in_a_row)} attempts in a row failed with {kind}; the first, {first[1]}: {first[2]}")

    def _open(self, id: str, message: str) -> None:
        if self.problem is None:
            remedy = "mend the cause (events/runner.jsonl has every failure); the same command resumes the run"
            self.problem = Problem(id, message, remedy)
            self._events.emit("breaker.open", durable=True, id=id, message=message, remedy=remedy)
