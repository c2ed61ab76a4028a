"""``artifacts/index.yaml``: one row an archive, and the lock under which numbers are allotted.

The lock is the kernel's (flock on ``artifacts/.lock``), so it ends with whoever holds it. The file is replaced whole: a reader sees the
ledger before or after a row, never between.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from swerl.errors import fail
from swerl.record.rundir import fsync_directory, write_atomic

INDEX, ARCHIVES = "index.yaml", "archives"
_ARCHIVE = re.compile(r"run_(\d{3,})")
_HEAD = "# One row an archive, written by `swerl artifacts`. Newest last.\n"


class Ledger:
    """The artifacts directory. ``add`` is the only writer."""

    def __init__(self, root: Path):
        self.root = root
        self.archives = root / ARCHIVES
        self.index = root / INDEX

    def rows(self) -> list[dict[str, Any]]:
        """Raises SWERL-A002 when the file is not a ledger."""
        if not self.index.is_file():
            return []
        try:
            rows = yaml.safe_load(self.index.read_text())["archives"]
            assert isinstance(rows, list) and all(isinstance(row, dict) and _ARCHIVE.fullmatch(row["id"]) for row in rows)
        except (yaml.YAMLError, AssertionError, KeyError, TypeError) as error:
            raise fail(
                "SWERL-A002", f"{self.index} is no ledger", "restore it, or move it away: it is begun anew", str(self.index)
            ) from error
        return rows

    def add(self, staged: Path, row: dict[str, Any]) -> Path:
        """Move ``staged`` (a directory in ``archives``) to its number and add its row. A row whose run and content are those of the run's
        newest archive adds nothing: that archive is returned, and ``staged`` is removed."""
        with self._locked():
            rows = self.rows()
            mine = [r for r in rows if (r["run"], r["started_at"]) == (row["run"], row["started_at"])]
            if mine and mine[-1]["content_sha256"] == row["content_sha256"] and (self.root / mine[-1]["archive"]).is_dir():
                shutil.rmtree(staged)
                return self.root / mine[-1]["archive"]
            name = f"run_{self._next(rows):03d}"
            entry = {"id": name, **row, "archive": f"{ARCHIVES}/{name}", "supersedes": mine[-1]["id"] if mine else None}
            staged.rename(self.archives / name)
            fsync_directory(self.archives)
            write_atomic(self.index, (_HEAD + yaml.safe_dump({"archives": [*rows, entry]}, sort_keys=False, allow_unicode=True)).encode())
            return self.archives / name

    def _next(self, rows: list[dict[str, Any]]) -> int:
        """One more than any number in the ledger or on disk: an archive whose row a crash prevented keeps its number."""
        names = [row["id"] for row in rows] + [path.name for path in self.archives.iterdir()]
        return 1 + max((int(m[1]) for name in names if (m := _ARCHIVE.fullmatch(name))), default=0)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.archives.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)
