"""Asks the rules, remembers what it has said, and says each thing once.

A step rule is asked for each row that has its metric, in the order of steps; its finding becomes an alarm when it has held for as many
steps in a row as the rule or ``config.watch.steps`` says. A clock rule's finding is an alarm at once. What is no longer found is cleared,
and may be raised again.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from swerl.watch.alarm import Action, Alarm
from swerl.watch.picture import Picture
from swerl.watch.rule import ClockRule, Finding, Rule, StepRule
from swerl.watch.rules import RULES
from swerl.watch.terms import Terms

ASLEEP_S = 60.0  # looks this far apart: the machine slept, or somebody set its clock


class Watchdog:
    """One life of a run. ``past`` are rows of earlier lives, to compare with; nothing is alarmed about them."""

    def __init__(self, terms: Terms, past: Iterable[tuple[int, Mapping[str, Any]]] = (), now: float | None = None):
        self.terms = terms
        self.picture = Picture(began=time.time() if now is None else now)
        self.picture.remember(past)
        self._bad: dict[str, int] = {}
        self._raised: set[str] = set()
        self._new: list[Alarm] = []
        self._looked: float | None = None
        self.cleared: list[str] = []

    def take(self, events: Iterable[Mapping[str, Any]], rows: Iterable[Mapping[str, Any]]) -> None:
        """New events in the order of their times, and new rows of ``metrics.jsonl``. The events of a step come before its row is asked."""
        for event in events:
            self.picture.take_event(event)
        for row in rows:
            self.picture.take_row(row["step"], row["data"])
            for rule in RULES:
                if isinstance(rule, StepRule) and rule.reads in row["data"] and (action := self._action(rule)):
                    self._step(rule, action, row["step"], rule.look(row["step"], row["data"], self.picture, self.terms))

    def look(self, now: float) -> list[Alarm]:
        """Alarms that are new since the last call. To be called every few seconds; ``now`` is in seconds since the epoch."""
        if self._looked is not None and abs(now - self._looked) > ASLEEP_S:
            self.picture.awake_since = now
        self._looked = now
        for rule in RULES:
            if isinstance(rule, ClockRule) and (action := self._action(rule)):
                found = rule.look(now, self.picture, self.terms)
                if found is None:
                    self._clear(rule)
                else:
                    self._raise(rule, action, found, None)
        new, self._new = self._new, []
        return new

    def _step(self, rule: StepRule, action: Action, step: int, found: Finding | None) -> None:
        if found is None:
            self._bad[rule.id] = 0
            self._clear(rule)
            return
        self._bad[rule.id] = self._bad.get(rule.id, 0) + 1
        if self._bad[rule.id] >= (rule.steps or self.terms.watch.steps):
            self._raise(rule, action, found, step)

    def _raise(self, rule: Rule, action: Action, found: Finding, step: int | None) -> None:
        if rule.id not in self._raised:
            self._raised.add(rule.id)
            self._new.append(Alarm(rule.id, action, found.message, rule.remedy, found.evidence, step))

    def _clear(self, rule: Rule) -> None:
        if rule.id in self._raised:
            self._raised.discard(rule.id)
            self.cleared.append(rule.id)

    def _action(self, rule: Rule) -> Action | None:
        """What follows the alarm; None where the configuration does not want to hear of it."""
        chosen = self.terms.watch.actions.get(rule.id, rule.action)
        return None if chosen == "off" else chosen
