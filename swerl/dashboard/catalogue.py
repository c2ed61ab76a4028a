"""The runs a server shows, by name, and their indexes.

A client names a run; the name is looked up here among directories that were found, and never joined to a path. An index is opened when its
run is first asked for and refreshed by one thread, so that questions never wait for each other's reading.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from swerl.artifacts.ledger import ARCHIVES
from swerl.dashboard.context import Seen, json_of
from swerl.dashboard.index import RunIndex
from swerl.record.registry import Registry
from swerl.record.rundir import REGISTRY_NAME, RunDir
from swerl.record.states import LIVE


class Catalogue:
    """``runs_dir`` and ``archives_dir`` may be missing; ``only`` limits it to one run, wherever that lies."""

    def __init__(self, runs_dir: Path | None, archives_dir: Path | None = None, only: RunDir | None = None):
        self._runs_dir, self._archives_dir, self._only = runs_dir, archives_dir, only
        self._indexes: dict[str, RunIndex] = {}
        self._opening = threading.Lock()

    def found(self) -> dict[str, RunDir]:
        """Every run and archive there is now. A directory is one when it has a manifest."""
        if self._only is not None:
            return {self._only.id: self._only}
        found: dict[str, RunDir] = {}
        for parent, prefix in ((self._runs_dir, ""), (self._archives_dir, f"{ARCHIVES}:")):
            if parent is None or not parent.is_dir():
                continue
            for path in sorted(parent.iterdir()):
                if not path.name.startswith(".") and (path / "manifest.json").is_file():
                    found[prefix + path.name] = RunDir.at(path)
        return found

    def listing(self) -> list[dict[str, Any]]:
        """Newest first: id, state, step and times of every run."""
        rows = {}
        if self._only is None and self._runs_dir is not None and (self._runs_dir / REGISTRY_NAME).is_file():
            registry = Registry(self._runs_dir / REGISTRY_NAME)
            try:
                rows = {row.id: row for row in registry.all()}
            finally:
                registry.close()
        found = []
        for name, run in self.found().items():
            row = rows.get(name) or self._row(run)
            manifest = json_of(run.manifest)
            attempts = manifest.get("attempts") or [{}]
            found.append(
                {
                    "id": name,
                    "run": manifest.get("run", run.id),
                    "project": manifest.get("project"),
                    "state": str(row.state) if row else "archived",
                    "live": row is not None and row.state in LIVE,
                    "step": row.step if row else None,
                    "total_steps": row.total_steps if row else None,
                    "started": (row.started if row else None) or attempts[-1].get("started") or 0,
                    "archive": name.startswith(f"{ARCHIVES}:"),
                }
            )
        return sorted(found, key=lambda entry: (not entry["live"], -entry["started"]))

    def index(self, name: str) -> RunIndex:
        """KeyError for a name that is not there."""
        run = self.found()[name]
        with self._opening:
            if name not in self._indexes:
                self._indexes[name] = RunIndex(run)
            return self._indexes[name]

    def opened(self) -> dict[str, RunIndex]:
        return dict(self._indexes)

    @contextmanager
    def seeing(self, name: str) -> Iterator[Seen]:
        index = self.index(name)
        with index.reading() as db:
            yield Seen(index.run, db)

    def close(self) -> None:
        for index in self._indexes.values():
            index.close()

    @staticmethod
    def _row(run: RunDir) -> Any:
        if not run.registry.is_file():
            return None
        registry = Registry(run.registry)
        try:
            return registry.get(run.id)
        finally:
            registry.close()
