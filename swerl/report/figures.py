"""Which curves a report draws, from one summary or several. Plain data: `drawing` lays it out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from swerl.dashboard.panels import UNITS

if TYPE_CHECKING:
    from swerl.report.summary import Summary

TONES = ("teal", "amber", "purple", "blue", "red", "brown", "pink", "grey")
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Line:
    """``points`` by step. ``band`` is (step, low, high) of an interval. ``tone`` names a colour of the page."""

    label: str
    points: Points
    tone: str
    band: Sequence[tuple[float, float, float]] = ()
    dots: bool = False
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Figure:
    """``unit`` says how values read: a number, a share in per cent, or seconds. ``from_zero``: the value axis begins at 0."""

    name: str
    title: str
    lines: tuple[Line, ...]
    unit: str = "number"
    from_zero: bool = False

    @property
    def file(self) -> str:
        return "".join(c if c.isalnum() else "-" for c in self.name).strip("-").lower()


def figures(named: Mapping[str, Summary]) -> list[Figure]:
    """Those that have a point to show. One run: with intervals and pass@k; several: one line a run."""
    single = len(named) == 1
    tones = dict(zip(named, (TONES[i % len(TONES)] for i in range(len(named))), strict=True))

    def lines(
        what: str, of: Callable[[Summary], Points], band: Callable[[Summary], Any] = lambda s: (), dots: bool = False
    ) -> tuple[Line, ...]:
        made = (Line(what if single else label, of(s), tones[label], band(s) if single else (), dots) for label, s in named.items())
        return tuple(line for line in made if line.points)

    resolved = lines("resolve rate", lambda s: _values(s.validations), lambda s: _band(s.validations), dots=True)
    if single and resolved:
        resolved += _pass_at(next(iter(named.values())).validations)
    found = [
        Figure("validation resolve rate", "Resolve rate, validation", resolved, "share", True),
        Figure(
            "training resolve rate",
            "Resolved, training trials",
            lines("resolved", lambda s: _values(s.rates), lambda s: _band(s.rates)),
            "share",
            True,
        ),
        Figure("groups with signal", "Groups with a signal", lines("share of groups", lambda s: _signal(s.rates)), "share", True),
    ]
    for name, unit in UNITS.items():
        found.append(Figure(name, name, lines(name, lambda s, name=name: [(x, y) for x, y in s.series.get(name, [])]), unit))
    return [figure for figure in found if figure.lines]


def _values(entries: Sequence[Mapping[str, Any]]) -> Points:
    return [(e["step"], e["value"]) for e in entries if e["value"] is not None]


def _band(entries: Sequence[Mapping[str, Any]]) -> list[tuple[float, float, float]]:
    return [(e["step"], e["low"], e["high"]) for e in entries if e["value"] is not None and e["low"] is not None]


def _signal(rates: Sequence[Mapping[str, Any]]) -> Points:
    return [(r["step"], r["signal"] / r["groups"]) for r in rates if r["groups"]]


def _pass_at(validations: Sequence[Mapping[str, Any]]) -> tuple[Line, ...]:
    most = max((int(k) for v in validations for k in v["pass_at"]), default=1)
    points = [(v["step"], v["pass_at"][str(most)]) for v in validations if str(most) in v["pass_at"]]
    return (Line(f"pass@{most}", points, "purple", dots=True, dashed=True),) if most > 1 else ()
