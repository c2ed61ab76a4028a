"""All alarms, in the order of their ids."""

from __future__ import annotations

from swerl.watch import engine, hangs, training, trials
from swerl.watch.rule import Rule

RULES: tuple[Rule, ...] = (*training.RULES, *trials.RULES, *engine.RULES, *hangs.RULES)


def rule_of(id: str) -> Rule | None:
    return next((rule for rule in RULES if rule.id == id.upper()), None)
