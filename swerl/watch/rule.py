"""One alarm: what it asks of the picture, and what it says when the answer is bad.

A rule is a small class with data for attributes and one method, like a check of preflight. ``StepRule`` is asked once for every row of
``metrics.jsonl``; what it finds must hold for ``steps`` steps in a row (``config.watch.steps`` unless the class says otherwise) before it
is an alarm. ``ClockRule`` is asked every few seconds. An id belongs to one alarm for ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from swerl.watch.alarm import Action
from swerl.watch.picture import Picture
from swerl.watch.terms import Terms


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule saw. ``evidence`` are the numbers that decided."""

    message: str
    evidence: Mapping[str, Any] = field(default_factory=dict)


class Rule:
    """``asks`` completes "raised when …" in the documentation. ``faults`` are numbers of the failure catalogue that it names."""

    id: ClassVar[str]
    title: ClassVar[str]
    asks: ClassVar[str]
    remedy: ClassVar[str]
    action: ClassVar[Action] = "note"
    faults: ClassVar[tuple[int, ...]] = ()


class StepRule(Rule):
    """``reads`` is the metric that a row must have for the rule to be asked; a row without it says neither good nor bad."""

    reads: ClassVar[str]
    steps: ClassVar[int | None] = None

    def look(self, step: int, row: Mapping[str, Any], picture: Picture, terms: Terms) -> Finding | None:
        """``row`` is the metrics of ``step``; None where nothing is wrong."""
        raise NotImplementedError


class ClockRule(Rule):
    def look(self, now: float, picture: Picture, terms: Terms) -> Finding | None:
        raise NotImplementedError


def number(row: Mapping[str, Any], name: str) -> float | None:
    """A metric as a number; None where the row has none, or wrote null because it was none."""
    value = row.get(name)
    return None if value is None else float(value)
