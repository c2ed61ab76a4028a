"""The registry: one SQLite file (WAL) beside the runs, one row a run, one row a process that a supervisor started.

Every change is one transaction, so a reader sees a run before or after a change and never between. A row's ``running`` is a claim;
``Run.state`` is already checked against the supervisor's pid and start time.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from swerl.errors import fail
from swerl.record.process import ProcessRef
from swerl.record.states import LIVE, NEXT, State, effective

SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    id TEXT PRIMARY KEY,
    state TEXT NOT NULL,
    config_digest TEXT NOT NULL,
    created REAL NOT NULL,
    started REAL,
    ended REAL,
    heartbeat REAL,
    supervisor_pid INTEGER,
    supervisor_ticks INTEGER,
    supervisor_boot TEXT,
    attempt INTEGER NOT NULL DEFAULT 0,
    step INTEGER,
    total_steps INTEGER,
    exit_code INTEGER,
    problem TEXT
) STRICT;
CREATE TABLE IF NOT EXISTS processes (
    run_id TEXT NOT NULL REFERENCES runs(id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    pid INTEGER NOT NULL,
    ticks INTEGER NOT NULL,
    boot TEXT NOT NULL,
    started REAL NOT NULL,
    ended REAL,
    PRIMARY KEY (run_id, pid, ticks, boot)
) STRICT;
"""


@dataclass(frozen=True, slots=True)
class Run:
    """One run as it is now. ``recorded`` is what the row says, ``state`` what is true. Times in seconds since the epoch."""

    id: str
    recorded: State
    state: State
    config_digest: str
    created: float
    started: float | None
    ended: float | None
    heartbeat: float | None
    supervisor: ProcessRef | None
    attempt: int
    step: int | None
    total_steps: int | None
    exit_code: int | None
    problem: str | None


@dataclass(frozen=True, slots=True)
class OwnedProcess:
    """A process that a supervisor of the run started as leader of its own session, and has not seen end."""

    name: str
    ref: ProcessRef
    started: float


class Registry:
    """Open with the path of the file; every method is one short transaction and safe from several processes."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        try:
            self._db = sqlite3.connect(path, timeout=30.0, isolation_level=None)
            self._db.row_factory = sqlite3.Row
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA foreign_keys=ON")
            self._db.executescript(SCHEMA)
        except sqlite3.DatabaseError as error:
            raise fail(
                "SWERL-R004",
                f"the run registry cannot be opened: {error}",
                "move the file aside; runs keep their directories, and the next command registers them again",
                where=str(path),
            ) from error

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield self._db
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    # Reading

    def get(self, run_id: str) -> Run | None:
        row = self._db.execute("SELECT * FROM runs WHERE id = ?", (run_id,)).fetchone()
        return None if row is None else _run(row)

    def all(self) -> list[Run]:
        """Newest first."""
        return [_run(row) for row in self._db.execute("SELECT * FROM runs ORDER BY COALESCE(started, created) DESC")]

    def processes(self, run_id: str) -> list[OwnedProcess]:
        """Processes of the run whose end nobody has recorded; they may be long dead."""
        rows = self._db.execute("SELECT * FROM processes WHERE run_id = ? AND ended IS NULL ORDER BY started", (run_id,))
        return [OwnedProcess(row["name"], ProcessRef(row["pid"], row["ticks"], row["boot"]), row["started"]) for row in rows]

    # Writing: only the holder of the run's lock does

    def prepare(self, run_id: str, config_digest: str) -> Run:
        """Make or renew the row of a run that is about to start. A run that is alive is refused."""
        now = time.time()
        with self._transaction() as db:
            row = db.execute("SELECT * FROM runs WHERE id = ?", (run_id,)).fetchone()
            if row is None:
                db.execute(
                    "INSERT INTO runs (id, state, config_digest, created) VALUES (?, ?, ?, ?)", (run_id, State.PREPARED, config_digest, now)
                )
            else:
                self._allow(_run(row), State.PREPARED)
                db.execute(
                    "UPDATE runs SET state = ?, config_digest = ?, ended = NULL, exit_code = NULL, problem = NULL WHERE id = ?",
                    (State.PREPARED, config_digest, run_id),
                )
        return self._need(run_id)

    def begin(self, run_id: str, supervisor: ProcessRef, total_steps: int | None) -> Run:
        """prepared -> running, before the first process is started, so that no process ever runs without a claim on it."""
        now = time.time()
        with self._transaction() as db:
            self._allow(self._need(run_id), State.RUNNING)
            db.execute(
                "UPDATE runs SET state = ?, started = ?, heartbeat = ?, ended = NULL, supervisor_pid = ?, supervisor_ticks = ?,"
                " supervisor_boot = ?, total_steps = COALESCE(?, total_steps), attempt = attempt + 1 WHERE id = ?",
                (State.RUNNING, now, now, supervisor.pid, supervisor.start_ticks, supervisor.boot, total_steps, run_id),
            )
        return self._need(run_id)

    def move(self, run_id: str, state: State, *, exit_code: int | None = None, problem: str | None = None) -> Run:
        """Another state; one that may not follow the present one is a programmer's error and changes nothing."""
        with self._transaction() as db:
            self._allow(self._need(run_id), state)
            ended = None if state in LIVE or state == State.PREPARED else time.time()
            db.execute(
                "UPDATE runs SET state = ?, ended = ?, exit_code = ?, problem = ? WHERE id = ?", (state, ended, exit_code, problem, run_id)
            )
        return self._need(run_id)

    def beat(self, run_id: str, step: int | None, total_steps: int | None) -> None:
        """The supervisor lives, and this is how far the run is."""
        with self._transaction() as db:
            db.execute(
                "UPDATE runs SET heartbeat = ?, step = COALESCE(?, step), total_steps = COALESCE(?, total_steps) WHERE id = ?",
                (time.time(), step, total_steps, run_id),
            )

    def settle(self, run_id: str) -> Run:
        """Write down what is true: a row whose supervisor is gone becomes interrupted."""
        with self._transaction() as db:
            run = self._need(run_id)
            if run.state != run.recorded:
                problem = "the supervisor was killed"
                db.execute(
                    "UPDATE runs SET state = ?, ended = COALESCE(heartbeat, started, created), problem = ? WHERE id = ?",
                    (run.state, problem, run_id),
                )
        return self._need(run_id)

    def started(self, run_id: str, name: str, ref: ProcessRef) -> None:
        with self._transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO processes (run_id, name, pid, ticks, boot, started) VALUES (?, ?, ?, ?, ?, ?)",
                (run_id, name, ref.pid, ref.start_ticks, ref.boot, time.time()),
            )

    def ended(self, run_id: str, ref: ProcessRef | None = None) -> None:
        """A process and its session are gone for good; without ``ref``, all of the run's are."""
        with self._transaction() as db:
            if ref is None:
                db.execute("UPDATE processes SET ended = ? WHERE run_id = ? AND ended IS NULL", (time.time(), run_id))
            else:
                db.execute(
                    "UPDATE processes SET ended = ? WHERE run_id = ? AND pid = ? AND ticks = ? AND boot = ?",
                    (time.time(), run_id, ref.pid, ref.start_ticks, ref.boot),
                )

    def rename(self, run_id: str, new_id: str) -> None:
        """A run that was moved aside keeps its history under its new name."""
        with self._transaction() as db:
            db.execute("PRAGMA defer_foreign_keys=ON")
            db.execute("UPDATE runs SET id = ? WHERE id = ?", (new_id, run_id))
            db.execute("UPDATE processes SET run_id = ? WHERE run_id = ?", (new_id, run_id))

    def forget(self, run_id: str) -> None:
        with self._transaction() as db:
            db.execute("DELETE FROM runs WHERE id = ?", (run_id,))

    def _need(self, run_id: str) -> Run:
        run = self.get(run_id)
        assert run is not None, f"run {run_id} has no row"
        return run

    @staticmethod
    def _allow(run: Run, state: State) -> None:
        if state not in NEXT[run.state]:
            raise fail(
                "SWERL-R005",
                f"run {run.id} is {run.state} and cannot become {state}",
                f"see what it does with: swerl status {run.id}",
            )


def _run(row: sqlite3.Row) -> Run:
    supervisor = None
    if row["supervisor_pid"] is not None:
        supervisor = ProcessRef(row["supervisor_pid"], row["supervisor_ticks"], row["supervisor_boot"])
    recorded = State(row["state"])
    return Run(
        id=row["id"],
        recorded=recorded,
        state=effective(recorded, supervisor is not None and supervisor.alive()),
        config_digest=row["config_digest"],
        created=row["created"],
        started=row["started"],
        ended=row["ended"],
        heartbeat=row["heartbeat"],
        supervisor=supervisor,
        attempt=row["attempt"],
        step=row["step"],
        total_steps=row["total_steps"],
        exit_code=row["exit_code"],
        problem=row["problem"],
    )
