"""Sections that set several runs beside each other. A difference of two resolve rates comes with its interval, or is not called one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import orjson

from swerl.report.markup import Markup, el
from swerl.report.sections import best_validation, section, table
from swerl.report.summary import Summary
from swerl.report.words import NONE, count, day, duration, interval, percent, setting


def side_by_side(named: Mapping[str, Summary], tones: Mapping[str, str]) -> Markup:
    rows = [_row(label, summary, tones[label]) for label, summary in named.items()]
    head = ["run", "best validation", "95 % interval", "at step", "coverage", "steps", "trials", "device time", "each resolved", "began"]
    return section("Side by side", table(head, rows, numeric=range(1, 9)))


def _row(label: str, summary: Summary, tone: str) -> list[Any]:
    best = best_validation(summary)
    settled = sum(entry["trials"] for steps in summary.steps.values() for entry in steps)
    told = (
        [percent(best["value"]), interval(best["low"], best["high"]), str(best["step"]), percent(best["coverage"], 0)]
        if best
        else [NONE] * 4
    )
    return [
        el("span", el("i", class_=f"swatch t-{tone}"), label), *told, str(summary.step), count(settled) if settled else NONE,
        duration(summary.cost["device_s"]), duration(summary.cost["device_s_per_resolved"]), day(summary.started),
    ]  # fmt: skip


def differences(named: Mapping[str, Summary]) -> Markup | None:
    """The newest validation of each run against that of the first."""
    newest = {label: v for label, s in named.items() if (v := _newest(s)) is not None}
    if len(newest) < 2:
        return None
    (base, first), *others = newest.items()
    rows = []
    for label, other in others:
        difference = other["value"] - first["value"]
        low, high = newcombe(other, first)
        clear = "yes" if low > 0 or high < 0 else "no"
        rows.append([f"{label} less {base}", str(other["step"]), percent(difference), f"{percent(low)} to {percent(high)}", clear])
    note = (
        "Newest published validation of each; intervals of the difference after Newcombe (1998, method 10), trials taken as independent. "
        "Runs of other seeds differ too: one run each says nothing about that."
    )
    head = ["resolve rate", "at step", "difference", "95 % interval", "excludes 0"]
    return section("Differences", table(head, rows, numeric=(1, 2, 3)), el("p", note, class_="note"))


def newcombe(one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[float, float]:
    """Interval of ``one - other`` from the two Wilson intervals: Newcombe 1998, method 10."""
    p, q = one["value"], other["value"]
    low = p - q - math.hypot(p - one["low"], other["high"] - q)
    high = p - q + math.hypot(one["high"] - p, q - other["low"])
    return low, high


def configurations(named: Mapping[str, Summary]) -> Markup:
    tables = {label: {e["key"]: e["value"] for e in summary.config} for label, summary in named.items()}
    keys = list(dict.fromkeys(key for table_ in tables.values() for key in table_))
    rows = []
    for key in keys:
        values = [table_.get(key) for table_ in tables.values()]
        if len({orjson.dumps(value) for value in values}) > 1:
            rows.append([el("code", key), *(el("code", setting(value)) for value in values)])
    if not rows:
        return section("Configurations", el("p", "Every key has the same value in all of them.", class_="empty"))
    return section(f"Configurations differ in {len(rows)} keys", table(["key", *named], rows))


def _newest(summary: Summary) -> Mapping[str, Any] | None:
    found = [v for v in summary.validations if v["published"] and v["value"] is not None and v["low"] is not None]
    return found[-1] if found else None
