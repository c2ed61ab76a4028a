"""The index's tables. One SQLite file (WAL): one writer thread, any number of readers.

``points``   one number of ``metrics.jsonl`` per name, step and lineage; ``ord`` says which lineage of a step was written last
``gauges``   numbers by time: engine, gateway, host; ``gauge_means`` sums of them over ``BUCKET_S``, for long runs
``events``   what happened, except what is counted elsewhere (trials) or too frequent to keep (counted in ``counts``)
``trials``   one row per attempt that got a name, and one per trial that ended before it got one; ``key`` is that name or the identity
``groups``   verdicts of one task at one step; ``steps`` sums of one step by outcome; ``work`` how long its graded training trials worked:
             all recomputed for the steps that changed
``files``    how far each source has been read, committed together with the rows it gave

A first reading fills the tables and then makes ``INDICES``, which takes a third less time than keeping them up to date; until then
questions walk through the rows there are.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from swerl.record.process import boot_id

VERSION = 3
BUCKET_S = 300

SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE files (
    name TEXT PRIMARY KEY, inode INTEGER NOT NULL, offset INTEGER NOT NULL, passed_over INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE names (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE points (
    name INTEGER NOT NULL, step INTEGER NOT NULL, lineage TEXT NOT NULL, ord INTEGER NOT NULL, value REAL NOT NULL,
    PRIMARY KEY (name, step, lineage)
) STRICT, WITHOUT ROWID;
CREATE TABLE gauges (name INTEGER NOT NULL, time REAL NOT NULL, value REAL NOT NULL, PRIMARY KEY (name, time)) STRICT, WITHOUT ROWID;
CREATE TABLE gauge_means (
    name INTEGER NOT NULL, bucket INTEGER NOT NULL, n INTEGER NOT NULL, total REAL NOT NULL, PRIMARY KEY (name, bucket)
) STRICT, WITHOUT ROWID;
CREATE TABLE events (
    id INTEGER PRIMARY KEY, time REAL NOT NULL, source TEXT NOT NULL, kind TEXT NOT NULL, step INTEGER, trial TEXT, data TEXT NOT NULL
) STRICT;
CREATE INDEX events_by_kind ON events (kind, time);
CREATE TABLE counts (kind TEXT PRIMARY KEY, n INTEGER NOT NULL, last REAL NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE tasks (hash TEXT PRIMARY KEY, id TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE trials (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, split TEXT, task TEXT, sample INTEGER, version TEXT, step INTEGER, attempt INTEGER,
    started REAL, settled REAL, outcome TEXT, in_loss INTEGER, reward REAL, turns INTEGER, attempts INTEGER, session TEXT,
    queue_s REAL, setup_s REAL, agent_s REAL, verifier_s REAL, hold_s REAL, total_s REAL,
    model_s REAL, prompt_tokens INTEGER, cached_tokens INTEGER, sampled_tokens INTEGER,
    error TEXT, findings INTEGER, more TEXT, fate TEXT
) STRICT;
CREATE INDEX trials_by_step ON trials (split, step);
CREATE TABLE groups (
    split TEXT NOT NULL, step INTEGER NOT NULL, task TEXT NOT NULL, trials INTEGER NOT NULL, graded INTEGER NOT NULL,
    resolved INTEGER NOT NULL, reward REAL, signal INTEGER NOT NULL, PRIMARY KEY (split, step, task)
) STRICT, WITHOUT ROWID;
CREATE TABLE steps (
    split TEXT NOT NULL, step INTEGER NOT NULL, outcome TEXT NOT NULL, fate TEXT NOT NULL, trials INTEGER NOT NULL,
    attempts INTEGER NOT NULL, turns INTEGER NOT NULL, queue_s REAL NOT NULL, setup_s REAL NOT NULL, agent_s REAL NOT NULL,
    verifier_s REAL NOT NULL, hold_s REAL NOT NULL, total_s REAL NOT NULL, model_s REAL NOT NULL, prompt_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL, sampled_tokens INTEGER NOT NULL, measured INTEGER NOT NULL, resolved INTEGER NOT NULL,
    findings INTEGER NOT NULL, PRIMARY KEY (split, step, outcome, fate)
) STRICT, WITHOUT ROWID;
CREATE TABLE work (
    step INTEGER NOT NULL, seconds INTEGER NOT NULL, n INTEGER NOT NULL, total REAL NOT NULL, PRIMARY KEY (step, seconds)
) STRICT, WITHOUT ROWID;
"""
INDICES = {
    "trials_by_task": "trials (task, step)",
    "trials_by_time": "trials (total_s)",
    "trials_by_outcome": "trials (outcome, split)",
    "trials_by_fate": "trials (fate, split)",
    "trials_by_turns": "trials (turns)",
    "trials_by_tokens": "trials (sampled_tokens)",
    "trials_by_reward": "trials (reward)",
    "trials_found": "trials (findings, reward) WHERE findings > 0",
    "trials_by_settled": "trials (settled)",
    "trials_by_words": "trials (key, error)",
    "trials_unsettled": "trials (started) WHERE outcome IS NULL",
}


def open_writer(path: Path) -> sqlite3.Connection:
    """The index at ``path``, made anew when it is of another version or broken: everything in it can be read again from the run."""
    for attempt in (1, 2):
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=OFF")  # it can be made again; only whole transactions are ever read
            db.execute("PRAGMA temp_store=MEMORY")
            db.execute("PRAGMA cache_size=-65536")
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version == 0 and not db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
                db.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")
                version = VERSION
            if version == VERSION and _whole(db):
                return db
        except sqlite3.DatabaseError:
            if attempt == 2:
                raise
        db.close()
        remove(path)
    raise AssertionError("a new index has this version")


def add_indices(db: sqlite3.Connection) -> None:
    """Those that are not there yet, inside the caller's transaction."""
    for name, columns in INDICES.items():
        db.execute(f"CREATE INDEX IF NOT EXISTS {name} ON {columns}")


def has_indices(db: sqlite3.Connection) -> bool:
    return db.execute("SELECT 1 FROM sqlite_master WHERE type = 'index' AND name = 'trials_by_settled'").fetchone() is not None


def _whole(db: sqlite3.Connection) -> bool:
    """A crash of the machine, and only that, can break the file: it is looked through once after each boot."""
    boot = boot_id()
    stored = db.execute("SELECT value FROM meta WHERE name = 'boot'").fetchone()
    if stored is not None and stored[0] == boot:
        return True
    if stored is not None and db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
        return False
    db.execute("INSERT OR REPLACE INTO meta VALUES ('boot', ?)", (boot,))
    return True


def open_reader(path: Path) -> sqlite3.Connection:
    """For one thread at a time. Sees whole transactions only."""
    db = sqlite3.connect(
        f"file:{path.absolute().as_posix().replace('?', '%3f').replace('#', '%23')}?mode=ro", uri=True, check_same_thread=False
    )
    db.execute("PRAGMA query_only=ON")
    db.execute("PRAGMA cache_size=-16384")
    db.row_factory = sqlite3.Row
    return db


def remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
