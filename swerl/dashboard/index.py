"""The index of one run: follows its files, restart-safe, and hands out readers.

``refresh`` takes what is new, in transactions of about ``follow.CHUNK_BYTES`` that also record how far each file was read: killed at any
point, the next one goes on there. One writer: whoever holds the lock beside the index. A second server, or a run whose directory cannot be
written, gets an index of its own in a temporary directory.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from swerl.dashboard import store
from swerl.dashboard.sums import Versions, sum_up
from swerl.dashboard.take import Taker
from swerl.record import follow
from swerl.record.rundir import RunDir

NAME = "dashboard.sqlite"
LINES_AT_A_TIME = 20_000  # between two of these, readers of the same process get their turn


class RunIndex:
    """``revision`` rises whenever a refresh changed something a reader could see."""

    def __init__(self, run: RunDir, index_path: Path | None = None):
        self.run = run
        self.revision = 0
        self.done_bytes = self.total_bytes = 0
        self._refreshing = threading.Lock()
        self._idle: list[sqlite3.Connection] = []
        self._own: tempfile.TemporaryDirectory[str] | None = None
        self._lock_fd, self.path = self._claim(index_path or run.root / NAME, beside=not (run.root / "SHA256SUMS").exists())
        self._db = store.open_writer(self.path)
        self._files = self._places()
        marks = self._db.execute("SELECT 1 FROM meta WHERE name GLOB 'changed|*'").fetchone()
        self._summed = marks is None and store.has_indices(self._db)  # else its last writer was killed before it got there

    @property
    def behind(self) -> float:
        """Share of the present refresh that is still to be read."""
        return 1.0 - self.done_bytes / self.total_bytes if self.total_bytes else 0.0

    def refresh(self) -> bool:
        """Take everything new; whether that changed the index. Calls at the same time wait for each other."""
        with self._refreshing:
            sources = [(name, path) for name, path in self._sources() if follow.grown(path, self._files.get(name, follow.Place()))]
            lineage = self._new_lineage()
            if not sources and lineage is None and self._summed:
                return False
            self.done_bytes = 0
            self.total_bytes = sum(max(0, _size(path) - self._files.get(name, follow.Place()).offset) for name, path in sources)
            taker, changed = Taker(self._db), lineage is not None or not self._summed
            try:
                for name, path in sources:
                    for piece in follow.read(path, self._files.get(name, follow.Place())):
                        self._take(taker, name, piece)
                        changed = True
            finally:
                self.total_bytes = 0
            if not changed:  # a line that is being written, or that its writer was killed in
                return False
            self._sum_up(taker, lineage)
            self.revision += 1
            return True

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection for one question."""
        try:
            db = self._idle.pop()
        except IndexError:
            db = store.open_reader(self.path)
        try:
            yield db
        finally:
            self._idle.append(db)

    def close(self) -> None:
        with self._refreshing:
            while self._idle:
                self._idle.pop().close()
            self._db.close()
            os.close(self._lock_fd)
            if self._own is not None:
                self._own.cleanup()

    def _sources(self) -> list[tuple[str, Path]]:
        events = sorted(self.run.events.glob("*.jsonl")) if self.run.events.is_dir() else []
        return [("metrics", self.run.metrics), *((f"events/{p.name}", p) for p in events), ("journal", self.run.trials_journal)]

    def _take(self, taker: Taker, name: str, piece: follow.Read) -> None:
        before = self._files.get(name, follow.Place())
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        try:
            if piece.anew and name != "metrics":
                # an append-only file that was replaced: what it said is gone with it, and so is the rest that it is mixed with
                self._forget(db)
            batches = [piece.lines[i : i + LINES_AT_A_TIME] for i in range(0, len(piece.lines), LINES_AT_A_TIME)] or [[]]
            for position, lines in enumerate(batches):
                if name == "metrics":
                    taker.metrics(lines, piece.anew and position == 0)
                elif name == "journal":
                    taker.journal(lines)
                else:
                    taker.events(lines)
            # settled steps are remembered until their sums are made, over a kill too
            db.executemany("INSERT OR IGNORE INTO meta VALUES (?, '')", [(f"changed|{split}|{step}",) for split, step in taker.changed])
            place = piece.place
            db.execute("INSERT OR REPLACE INTO files VALUES (?,?,?,?)", (name, place.inode, place.offset, place.passed_over))
            if taker.broken:
                db.execute(
                    "INSERT INTO meta VALUES ('broken_lines', ?) ON CONFLICT DO UPDATE SET value = CAST(value AS INTEGER) + excluded.value",
                    (str(taker.broken),),
                )
                taker.broken = 0
            db.execute("COMMIT")
        except BaseException:
            self._undo(db)
            raise
        self._files[name], self._summed = place, False
        self.done_bytes += max(0, place.offset - (0 if piece.anew else before.offset))

    def _places(self) -> dict[str, follow.Place]:
        return {name: follow.Place(*rest) for name, *rest in self._db.execute("SELECT * FROM files")}

    def _undo(self, db: sqlite3.Connection) -> None:
        if db.in_transaction:  # a full disk has ended it already
            db.execute("ROLLBACK")
        self._files = self._places()

    def _forget(self, db: sqlite3.Connection) -> None:
        for table in ("gauges", "gauge_means", "events", "counts", "tasks", "trials", "groups", "steps", "work", "files"):
            db.execute(f"DELETE FROM {table}")
        db.execute("DELETE FROM meta WHERE name GLOB 'changed|*'")
        metrics = self._files.get("metrics")
        self._files = {"metrics": metrics} if metrics else {}
        if metrics:
            db.execute("INSERT INTO files VALUES ('metrics',?,?,?)", (metrics.inode, metrics.offset, metrics.passed_over))

    def _sum_up(self, taker: Taker, lineage: str | None) -> None:
        db = self._db
        if lineage is not None:
            pairs = {(split, step) for split, step in db.execute("SELECT DISTINCT split, step FROM trials WHERE total_s IS NOT NULL")}
        else:
            marks = [name.split("|") for (name,) in db.execute("SELECT name FROM meta WHERE name GLOB 'changed|*'")]
            pairs = {(split, int(step)) for _, split, step in marks}
        db.execute("BEGIN IMMEDIATE")
        try:
            sum_up(db, pairs, Versions.of(self.run.lineage))
            store.add_indices(db)
            db.execute("DELETE FROM meta WHERE name GLOB 'changed|*'")
            if lineage is not None:
                db.execute("INSERT OR REPLACE INTO meta VALUES ('lineage', ?)", (lineage,))
            db.execute("COMMIT")
        except BaseException:
            self._undo(db)
            raise
        taker.changed.clear()
        self._summed = True

    def _new_lineage(self) -> str | None:
        """A mark of ``lineage.json`` when the trainer was started since: what stands may have changed, for old steps too."""
        try:
            found = self.run.lineage.stat()
        except FileNotFoundError:
            return None
        mark = f"{found.st_ino} {found.st_mtime_ns}"
        stored = self._db.execute("SELECT value FROM meta WHERE name = 'lineage'").fetchone()
        return None if stored is not None and stored[0] == mark else mark

    def _claim(self, path: Path, beside: bool) -> tuple[int, Path]:
        """The lock's descriptor and the path that goes with it. Nothing is added to an archive: its statement names every file."""
        try:
            if not beside and path.parent == self.run.root:
                raise PermissionError
            fd = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return fd, path
            except BlockingIOError:
                os.close(fd)
        except OSError:
            pass  # a directory that is not ours to write in; the run can be read all the same
        self._own = tempfile.TemporaryDirectory(prefix="swerl-index-")
        own = Path(self._own.name) / NAME
        return os.open(own.with_name(NAME + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), own


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def wait_until_read(index: RunIndex, timeout_s: float = 600.0) -> None:
    """Refresh until nothing is new: for reports and tests."""
    deadline = time.monotonic() + timeout_s
    while index.refresh() and time.monotonic() < deadline:
        pass
