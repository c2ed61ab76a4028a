"""What a preflight found: as text for people, as data for programs, and one verdict.

``ok`` is true exactly when nothing fatal was found; the command line exits 0 then, else 1. A warning never blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from swerl.errors import Problem
from swerl.preflight.check import Check

Status = Literal["ok", "note", "warning", "fatal", "not applicable"]
_MARK = {"ok": "ok  ", "note": "note", "warning": "WARN", "fatal": "FAIL", "not applicable": "  - "}
_RANK = {"fatal": 3, "warning": 2, "note": 1}


@dataclass(frozen=True, slots=True)
class Result:
    """What one check said, and how long it took."""

    id: str
    family: str
    title: str
    status: Status
    problems: tuple[Problem, ...]
    facts: tuple[str, ...]
    reason: str
    seconds: float

    @classmethod
    def of(cls, check: Check, problems: Sequence[Problem], facts: Sequence[str], seconds: float, not_applicable: str = "") -> Result:
        status: Status = "ok"
        if problems:
            status = max((p.severity for p in problems), key=_RANK.__getitem__)
        elif not_applicable:
            status = "not applicable"
        return cls(check.id, check.family, check.title, status, tuple(problems), tuple(facts), not_applicable, seconds)

    def as_dict(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "family": self.family,
            "title": self.title,
            "status": self.status,
            "problems": [p.as_dict() for p in self.problems],
            "facts": list(self.facts),
            "reason": self.reason,
            "seconds": round(self.seconds, 4),
        }


@dataclass(frozen=True, slots=True)
class Report:
    """``summary`` is the Run Configuration Summary: label and value, in reading order; ``forecast`` is text, empty if there is none."""

    results: tuple[Result, ...]
    summary: tuple[tuple[str, str], ...] = ()
    forecast: str = ""
    static_s: float = 0.0
    live_s: float = 0.0

    @classmethod
    def of_problems(cls, check: Check, problems: Sequence[Problem]) -> Report:
        """A report of one check's findings, where nothing else could be looked at."""
        return cls((Result.of(check, problems, [], 0.0),))

    @property
    def problems(self) -> list[Problem]:
        return [p for r in self.results for p in r.problems]

    @property
    def fatal(self) -> list[Problem]:
        return [p for p in self.problems if p.severity == "fatal"]

    @property
    def warnings(self) -> list[Problem]:
        return [p for p in self.problems if p.severity == "warning"]

    @property
    def ok(self) -> bool:
        return not self.fatal

    @property
    def ids(self) -> set[str]:
        """The ids that were found, which is what most readers of a report want to know."""
        return {p.id for p in self.problems}

    def verdict(self) -> str:
        checked = sum(r.status != "not applicable" for r in self.results)
        cost = f"{checked} checks, {len(self.results) - checked} not applicable; {self.static_s:.2f} s static, {self.live_s:.2f} s live"
        if self.ok:
            return f"SAFE TO RUN: yes ({_number(len(self.warnings), 'warning')}; {cost})"
        return f"SAFE TO RUN: no ({_number(len(self.fatal), 'fatal problem')}, {_number(len(self.warnings), 'warning')}; {cost})"

    def as_dict(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "verdict": self.verdict(),
            "fatal": len(self.fatal),
            "warnings": len(self.warnings),
            "static_s": round(self.static_s, 4),
            "live_s": round(self.live_s, 4),
            "results": [r.as_dict() for r in self.results],
            "summary": dict(self.summary),
            "forecast": self.forecast.splitlines(),
        }

    def render(self, *, verbose: bool = False) -> str:
        """Text. Checks that had nothing to look at are listed only when ``verbose``; what they said can always be asked for by id."""
        lines: list[str] = []
        family = ""
        for result in self.results:
            if result.status == "not applicable" and not verbose:
                continue
            if result.family != family:
                family = result.family
                lines += ["", family]
            lines += _result_lines(result)
        if self.summary:
            width = max(len(label) for label, _ in self.summary)
            lines += ["", "Run Configuration Summary", *(f"  {label:<{width}}  {value}" for label, value in self.summary)]
        if self.forecast:
            lines += ["", "Forecast (~ estimated)", *(f"  {line}" for line in self.forecast.splitlines())]
        return "\n".join([*lines, "", self.verdict()]).lstrip("\n")


def _result_lines(result: Result) -> list[str]:
    tail = "; ".join(result.facts) or result.reason
    lines = [f"  {_MARK[result.status]} {result.id}  {result.title}" + (f": {tail}" if tail else "")]
    for problem in result.problems:
        place = f"{problem.where}: " if problem.where else ""
        label = "" if problem.id == result.id else f"{problem.id} "
        lines += [f"         {problem.severity}: {label}{place}{problem.message}", f"         do: {problem.remedy}"]
    return lines


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")
