"""An alarm: what a rule found, as one line for a person and as data for a reader of events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from swerl.errors import Problem

Action = Literal["note", "pause", "stop"]
ORDER: tuple[Action, ...] = ("note", "pause", "stop")


@dataclass(frozen=True, slots=True)
class Alarm:
    """``evidence`` are the numbers that decided, by name. ``step`` is the training step it was seen at, None between steps."""

    id: str
    action: Action
    message: str
    remedy: str
    evidence: Mapping[str, Any]
    step: int | None = None

    def __str__(self) -> str:
        at = "" if self.step is None else f"step {self.step}: "
        return f"{self.id} {at}{self.message}"

    def as_problem(self) -> Problem:
        """For a run that ends because of it."""
        return Problem(self.id, self.message, self.remedy, "" if self.step is None else f"step {self.step}")

    def as_fields(self) -> dict[str, Any]:
        """For an event."""
        return {
            "id": self.id,
            "action": self.action,
            "message": self.message,
            "remedy": self.remedy,
            "evidence": dict(self.evidence),
            "step": self.step,
        }
