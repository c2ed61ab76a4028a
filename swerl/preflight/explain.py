"""What an id means, as text: a check's, an alarm's, or any other problem's, in the words of the program itself."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from functools import cache

from swerl.config.catalog import PROBLEMS
from swerl.config.schema import PROJECT_ROOT
from swerl.preflight.catalog import CHECKS
from swerl.preflight.check import Check
from swerl.preflight.error_ids import FAMILIES, Use, uses
from swerl.watch import RULES, Rule

_SHORT = re.compile(r"(?:SWERL-)?(?P<rest>[A-Z]\d{3})")


def explain(id: str) -> str:
    """Accepts ``SWERL-P102``, ``swerl-p102`` and ``p102``. ValueError for an id that nothing has, with those that are near it."""
    match = _SHORT.fullmatch(id.strip().upper())
    wanted = f"SWERL-{match['rest']}" if match else id.strip().upper()
    for check in CHECKS:
        if check.id == wanted:
            return _of_check(check)
    for rule in RULES:
        if rule.id == wanted:
            return _of_rule(rule)
    found = [use for use in _uses() if use.id == wanted]
    if found or wanted in PROBLEMS:
        return _of_problem(wanted, found)
    known = sorted({c.id for c in CHECKS} | {r.id for r in RULES} | set(PROBLEMS) | {use.id for use in _uses()})
    near = difflib.get_close_matches(wanted, known, n=3, cutoff=0.6)
    hint = f"; near it: {', '.join(near)}" if near else "; an id looks like SWERL-P102"
    raise ValueError(f"no check, alarm or problem is called {id!r}{hint}")


@cache
def _uses() -> tuple[Use, ...]:
    return tuple(uses(PROJECT_ROOT / "swerl"))


def _of_check(check: Check) -> str:
    kind = "live (asks the machine)" if check.live else "static (reads the profile and small files)"
    return _text(
        f"{check.id}  {check.title}  [{check.family}]",
        f"finds out whether {check.asks}.",
        f"do: {check.remedy}",
        f"severity: {check.severity}; {kind}; counts as hung after {check.budget_s:g} s, and is then {check.hung}"
        + ("; runs only when named or with --deep" if check.slow else ""),
        check.faults,
        check.id,
    )


def _of_rule(rule: Rule) -> str:
    return _text(
        f"{rule.id}  {rule.title}  [alarm of the watchdog]",
        f"raised when {rule.asks}.",
        f"do: {rule.remedy}",
        f"what follows: {rule.action}, unless watch.actions names another",
        rule.faults,
        rule.id,
    )


def _of_problem(id: str, found: Iterable[Use]) -> str:
    lines = [f"{id}  [{FAMILIES[id[6]]}]"]
    lines += [PROBLEMS[id]] if id in PROBLEMS else []
    for message, remedy in dict.fromkeys((use.message, use.remedy) for use in found):
        lines.append(f"says: {message or '(the text depends on the case)'}")
        lines += [f"do: {remedy}"] if remedy else []
    return "\n".join([*lines, f"docs/troubleshooting.md#{id.lower()}"])


def _text(head: str, asks: str, remedy: str, kind: str, faults: Iterable[int], id: str) -> str:
    numbers = ", ".join(f"J{n}" for n in faults)
    lines = [head, asks, remedy, kind, *([f"catalogued failures: {numbers}"] if numbers else [])]
    return "\n".join([*lines, f"docs/troubleshooting.md#{id.lower()}"])
