"""What the views of one run stand on: its index's reader, its directory, its configuration and its registry row."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import orjson

from swerl.config.schema import keys
from swerl.dashboard import store
from swerl.record.registry import Registry, Run
from swerl.record.rundir import RunDir


@dataclass(frozen=True)
class Seen:
    """One run while one question is answered. ``values`` is the resolved configuration as plain data, {} where the run has none."""

    run: RunDir
    db: sqlite3.Connection

    @cached_property
    def resolved(self) -> Mapping[str, Any]:
        return json_of(self.run.resolved)

    @cached_property
    def values(self) -> Mapping[str, Any]:
        return self.resolved.get("config") or {}

    @cached_property
    def manifest(self) -> Mapping[str, Any]:
        return json_of(self.run.manifest)

    @cached_property
    def row(self) -> Run | None:
        """The registry's row with its true state; None for a directory that no registry knows (an archive)."""
        if not self.run.registry.is_file():
            return None
        registry = Registry(self.run.registry)
        try:
            return registry.get(self.run.id)
        finally:
            registry.close()

    def value(self, key: str, default: Any = None) -> Any:
        """A key of the configuration, ``section.name``."""
        place: Any = self.values
        for part in key.split("."):
            place = place.get(part) if isinstance(place, Mapping) else None
        return default if place is None else place

    def rows(self, sql: str, *parameters: Any) -> list[sqlite3.Row]:
        return self.db.execute(sql, parameters).fetchall()

    def one(self, sql: str, *parameters: Any) -> Any:
        row = self.db.execute(sql, parameters).fetchone()
        return None if row is None else row[0]

    def trials_by(self, index: str) -> str:
        """``trials`` for a FROM clause, read by this index, which SQLite would not always choose; during a first reading, by any."""
        return f"trials INDEXED BY {index}" if store.has_indices(self.db) else "trials"

    def points(self, name: str) -> dict[int, float]:
        """Step -> value; of a step measured under two lineages the later written one stands."""
        rows = self.db.execute(
            "SELECT step, value FROM points WHERE name = (SELECT id FROM names WHERE name = ?) ORDER BY ord", (name,)
        ).fetchall()
        return dict(sorted((step, value) for step, value in {row[0]: row[1] for row in rows}.items()))

    def tasks(self) -> dict[str, str]:
        return {row[0]: row[1] for row in self.db.execute("SELECT hash, id FROM tasks")}

    @property
    def devices(self) -> int:
        """GPUs the run holds; 0 on a CPU."""
        if self.value("infrastructure.device") == "cpu":
            return 0
        return int(self.value("infrastructure.nnodes", 1)) * int(self.value("infrastructure.ngpus_per_node", 0))


def json_of(path: Any) -> dict[str, Any]:
    """The object in a file; {} when there is none or it is no object."""
    try:
        value = orjson.loads(path.read_bytes())
    except (FileNotFoundError, orjson.JSONDecodeError):
        return {}
    return value if isinstance(value, dict) else {}


def secret_names() -> frozenset[str]:
    return frozenset(key.name for key in keys().values() if key.secret)
