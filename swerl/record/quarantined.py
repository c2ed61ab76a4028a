"""What the trial runner has given up, from a run's events: tasks and hosts that only failed, and have not been taken back since."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Quarantined:
    """``name`` is a task's id or a host's name, ``error`` the first failure."""

    what: Literal["task", "host"]
    name: str
    error: str


def quarantined(events: Iterable[Mapping[str, Any]]) -> tuple[Quarantined, ...]:
    """In the order in which they were given up. A runner that starts says what it keeps of its predecessor's."""
    found: dict[tuple[str, str], Quarantined] = {}
    for event in events:
        kind = event["kind"]
        if kind == "runner.started":
            kept = {("task", name): error for name, error in event.get("quarantined", {}).items()}
            kept |= {("host", name): error for name, error in event.get("quarantined_hosts", {}).items()}
            found = {key: found.get(key) or Quarantined(key[0], key[1], error) for key, error in kept.items()}  # type: ignore[arg-type]
        elif kind == "task.quarantined":
            found["task", event["task"]] = Quarantined("task", event["task"], str(event["error"]))
        elif kind == "host.quarantined":
            found["host", event["host"]] = Quarantined("host", event["host"], str(event["error"]))
        elif kind in ("task.released", "host.released"):
            what = kind.partition(".")[0]
            found.pop((what, event[what]), None)
    return tuple(found.values())
