"""A figure as marks at places: what `svg` and `png` both put down. Pure; one unit is one CSS pixel, y grows downwards."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from swerl.report.figures import Figure

WIDTH, HEIGHT = 420, 220
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 10, 26
NARROWEST = 5e-5  # values closer together than this share of their size are drawn flat: it is rounding that differs
Place = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Path:
    """An open line, or with ``filled`` the area it encloses. ``tone`` is a colour's name; ``grid`` and ``axis`` are colours too."""

    places: tuple[Place, ...]
    tone: str
    filled: bool = False
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Dot:
    """One value. ``told`` is what it says to whoever points at it."""

    place: Place
    tone: str
    told: str
    shown: bool = True


@dataclass(frozen=True, slots=True)
class Word:
    """``anchor``: which end of the text ``place`` is: start, middle, end."""

    place: Place
    text: str
    anchor: str = "start"


Mark = Path | Dot | Word


def marks(figure: Figure) -> list[Mark]:
    """Grid and ticks first, then intervals, lines and dots. A figure has at least one line, and a line at least one point."""
    steps = [x for line in figure.lines for x, _ in line.points]
    values = [y for line in figure.lines for _, y in line.points if math.isfinite(y)]
    values += [edge for line in figure.lines for _, low, high in line.band for edge in (low, high)]
    across = _Scale(min(steps), max(steps), LEFT, WIDTH - RIGHT)
    low, high = _span(values, figure.from_zero)
    up = _Scale(low, high, HEIGHT - BOTTOM, TOP)
    say = UNITS[figure.unit]
    found: list[Mark] = []
    ticks = nice_ticks(low, high)
    for value in ticks:
        y = up(value)
        found += [Path(((LEFT, y), (WIDTH - RIGHT, y)), "grid"), Word((LEFT - 6, y + 3.5), say(value, _gap(ticks)), "end")]
    for step in nice_ticks(min(steps), max(steps), whole=True):
        found.append(Word((across(step), HEIGHT - 8), f"{step:g}", "middle"))
    for line in figure.lines:
        if len(line.band) > 1:
            edge = [(across(x), up(top)) for x, _, top in line.band] + [(across(x), up(bottom)) for x, bottom, _ in reversed(line.band)]
            found.append(Path(tuple(edge), line.tone, filled=True))
    for line in figure.lines:
        places = tuple((across(x), up(y)) for x, y in line.points if math.isfinite(y))
        if len(places) > 1:
            found.append(Path(places, line.tone, dashed=line.dashed))
        shown = line.dots or len(places) == 1
        whole = [(x, y) for x, y in line.points if math.isfinite(y)]
        found += [
            Dot(place, line.tone, f"{line.label}, step {x:g}: {say(y, 0.0)}", shown) for place, (x, y) in zip(places, whole, strict=True)
        ]
    return found


def nice_ticks(low: float, high: float, whole: bool = False, about: int = 5) -> list[float]:
    """Round values within [low, high], about ``about`` of them, evenly spaced."""
    if high <= low:
        return [low]
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    if whole:
        step = max(1.0, round(step))
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 12) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def number(value: float, gap: float = 0.0) -> str:
    """A value with as many digits as tell it from a neighbour ``gap`` away; without one, four."""
    if not math.isfinite(value):
        return "–"
    size = abs(value)
    if gap:
        if size >= 1e4:
            return _short(value, max(0, 3 - math.floor(math.log10(size)) % 3 - 1))
        if gap < 1e-5:
            return f"{value:.1e}".replace("e-0", "e-") if size > gap / 2 else "0"
        return f"{value:.{max(0, min(8, -math.floor(math.log10(gap) + 1e-9)))}f}"
    if size >= 1e4:
        return _short(value, 1)
    return f"{value:.2e}" if size and size < 1e-3 else f"{value:.4g}"


def seconds(value: float, gap: float = 0.0) -> str:
    if not math.isfinite(value):
        return "–"
    if abs(value) >= 7200:
        return f"{value / 3600:.3g} h"
    if abs(value) >= 120:
        return f"{value / 60:.3g} min"
    return f"{value:.3g} s" if value else "0"


def share(value: float, gap: float = 0.0) -> str:
    if not math.isfinite(value):
        return "–"
    digits = 1 if not gap else max(0, -math.floor(math.log10(100 * gap) + 1e-9))
    return f"{100 * value:.{min(6, digits)}f} %"


UNITS: dict[str, Callable[[float, float], str]] = {"number": number, "seconds": seconds, "share": share}


@dataclass(frozen=True, slots=True)
class _Scale:
    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        if self.high <= self.low:
            return (self.start + self.stop) / 2
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)


def _span(values: Sequence[float], from_zero: bool) -> tuple[float, float]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    if from_zero:
        low = min(0.0, low)
    least = NARROWEST * max(abs(low), abs(high))
    if high - low <= least:
        if high == 0:
            return 0.0, 1.0
        middle, half = (low + high) / 2, max(least, abs(high) * 0.1 if low == high else 0.0)
        return middle - half, middle + half
    pad = (high - low) * 0.06
    return (low if from_zero and low == 0.0 else low - pad), high + pad


def _gap(ticks: Sequence[float]) -> float:
    return ticks[1] - ticks[0] if len(ticks) > 1 else abs(ticks[0]) * 0.1 if ticks and ticks[0] else 1.0


def _short(value: float, digits: int) -> str:
    for unit, name in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:.{digits}f} {name}"
    return f"{value:.{digits}f}"


def words(found: Sequence[Mark]) -> Iterator[str]:
    """Every text of a drawing, for tests and readers without eyes."""
    yield from (mark.text for mark in found if isinstance(mark, Word))
