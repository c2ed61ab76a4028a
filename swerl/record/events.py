"""Append-only events: what happened, when, to what. Every process writes its own file; readers merge them by time.

A line is one JSON object: ``time`` (seconds since the epoch), ``source`` (process), ``kind`` (dotted name), and optionally
``step``, ``trial`` and fields of the kind. Lines are whole or absent (`ledger`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from swerl.record.ledger import Ledger, objects


class EventLog:
    """One writer. ``durable=True`` fsyncs that line before returning; use it where a reader's correctness depends on it."""

    def __init__(self, path: Path, source: str):
        self.path, self.source = path, source
        self._ledger = Ledger(path)

    def emit(self, kind: str, *, durable: bool = False, **fields: Any) -> None:
        event = {"time": time.time(), "source": self.source, "kind": kind, **fields}
        self._ledger.add(orjson.dumps(event, default=str) + b"\n", sync=durable)

    def close(self) -> None:
        self._ledger.close()


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """Yield whole events of one file, oldest first. What is none, such as the torn line of a killed writer, is passed over."""
    return (event for event in objects(path) if "time" in event and "kind" in event)
