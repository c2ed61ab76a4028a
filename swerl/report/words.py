"""Numbers and times as a person reads them; a missing one is a dash."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

from swerl.report import drawing

NONE = "–"


def number(value: float | None) -> str:
    return NONE if value is None else drawing.number(float(value))


def percent(value: float | None, digits: int = 1) -> str:
    return NONE if value is None or not math.isfinite(value) else f"{100 * value:.{digits}f} %"


def count(value: float | None) -> str:
    if value is None:
        return NONE
    return drawing.number(float(value)) if abs(value) >= 1e5 else f"{round(value):,}".replace(",", " ")


def duration(value: float | None) -> str:
    """``42 s``, ``3 min 05 s``, ``2 h 07 min``."""
    if value is None or not math.isfinite(value):
        return NONE
    if value < 59.5:
        return f"{value:.1f} s" if 0 < value < 9.95 else f"{value:.0f} s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def day(seconds: float | None) -> str:
    """In UTC: a report is read elsewhere than where it was made."""
    return NONE if not seconds else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def interval(low: float | None, high: float | None) -> str:
    return NONE if low is None or high is None else f"{percent(low)} to {percent(high)}"


def setting(value: Any) -> str:
    """As the configuration file would have it."""
    if value is None or value == "":
        return "none"
    if isinstance(value, str):
        return value
    return str(value).lower() if isinstance(value, bool) else str(value)
