"""Pages made from the texts of checks and problems. ``python -m swerl.preflight.docs`` writes them; a test says when they are stale."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

from swerl.config.catalog import PROBLEMS
from swerl.config.schema import PROJECT_ROOT
from swerl.preflight.catalog import CHECKS
from swerl.preflight.check import Check
from swerl.preflight.error_ids import FAMILIES, Use, uses
from swerl.preflight.faults import page as faults_page
from swerl.watch import RULES, Rule

_MADE = "<!-- made by `python -m swerl.preflight.docs`; do not edit -->"
_BEGIN, _END = "<!-- {}: begin, made by `python -m swerl.preflight.docs` -->", "<!-- {}: end -->"


def troubleshooting(root: Path = PROJECT_ROOT) -> str:
    """``docs/troubleshooting.md``: one anchor per id, in the words of the program."""
    by_id = {id: list(group) for id, group in groupby(uses(root / "swerl"), key=lambda use: use.id)}
    checks = {check.id: check for check in CHECKS}
    rules = {rule.id: rule for rule in RULES}
    lines = [
        "# Troubleshooting",
        "",
        _MADE,
        "",
        "Every problem has an id. Find it here; `swerl preflight --explain ID` says the same. Words in braces stand for values.",
        "",
    ]
    for letter, family in FAMILIES.items():
        ids = sorted(id for id in {*by_id, *checks, *rules, *PROBLEMS} if id[6] == letter)
        if ids:
            lines += [f"# {family}", ""]
        for id in ids:
            lines += [f"## {id}", ""]
            if id in checks:
                lines += _check(checks[id])
            else:
                lines += _rule(rules[id]) if id in rules else _problem(id, by_id.get(id, []))
    return "\n".join(lines).rstrip("\n") + "\n"


def _check(check: Check) -> list[str]:
    lines = [
        f"**{check.title[0].upper()}{check.title[1:]}** ({check.family}, {check.severity}). Finds out whether {check.asks}.",
        "",
        f"Do: {check.remedy}.",
        "",
    ]
    if check.faults:
        numbers = ", ".join(f"J{n}" for n in check.faults)
        lines += [f"Catalogued failures ([faults](faults.md)): {numbers}.", ""]
    return lines


def _rule(rule: Rule) -> list[str]:
    lines = [f"**{rule.title[0].upper()}{rule.title[1:]}** (alarm, {rule.action}). Raised when {rule.asks}.", "", f"Do: {rule.remedy}.", ""]
    if rule.faults:
        lines += [f"Catalogued failures ([faults](faults.md)): {', '.join(f'J{n}' for n in rule.faults)}.", ""]
    return lines


def _problem(id: str, found: Iterable[Use]) -> list[str]:
    lines = [PROBLEMS[id], ""] if id in PROBLEMS else []
    said: set[tuple[str, str]] = set()
    for use in found:
        if (use.message, use.remedy) in said:
            continue
        said.add((use.message, use.remedy))
        message = f"`{_code(use.message)}`" if use.message else "(the text depends on the case)"
        lines.append(f"- {message}" + (f"<br>Do: {use.remedy}" if use.remedy else "") + f" ({use.room})")
    return [*lines, ""]


def _code(text: str) -> str:
    return text.replace("`", "'").replace("\n", " ")


def checks_table() -> str:
    lines = ["| id | asks whether | severity | live |", "|---|---|---|---|"]
    for check in CHECKS:
        live = "deep" if check.slow else "yes" if check.live else ""
        lines.append(f"| [{check.id}](troubleshooting.md#{check.id.lower()}) | {check.asks} | {check.severity} | {live} |")
    return "\n".join(lines)


def alarms_table() -> str:
    lines = ["| id | raised when | follows |", "|---|---|---|"]
    lines += [f"| [{rule.id}](troubleshooting.md#{rule.id.lower()}) | {rule.asks} | {rule.action} |" for rule in RULES]
    return "\n".join(lines)


def with_table(path: Path, name: str, table: str) -> str:
    """A page written by hand, with the table between its two marks made anew."""
    begin, end = _BEGIN.format(name), _END.format(name)
    head, _, rest = path.read_text().partition(begin)
    _, _, tail = rest.partition(end)
    return f"{head}{begin}\n\n{table}\n\n{end}{tail}"


def pages(root: Path = PROJECT_ROOT) -> dict[Path, str]:
    docs = root / "docs"
    return {
        docs / "troubleshooting.md": troubleshooting(root),
        docs / "faults.md": faults_page(root / "tests" / "faults"),
        docs / "preflight.md": with_table(docs / "preflight.md", "checks", checks_table()),
        docs / "runs.md": with_table(docs / "runs.md", "alarms", alarms_table()),
    }


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text)
        print(path.relative_to(PROJECT_ROOT))
