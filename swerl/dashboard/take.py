"""Lines of a run's files as rows of the index. One function per kind of file; each takes whole lines and may be given any of them again.

A line that is no JSON object of the expected form is counted in ``meta.broken_lines`` and changes nothing: files of a killed writer end in
torn lines, and a reader must outlive them.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import orjson

from swerl.dashboard.store import BUCKET_S

# Told by the journal, or one per turn: counted, not kept.
COUNTED = frozenset({"trial.started", "trial.settled", "gateway.rewrite", "gateway.rerendered"})
GAUGES: Mapping[str, str] = {"gateway.stats": "gateway", "engine.rates": "engine", "host.sample": "host"}
MAX_FIELD = 20_000
_ELSEWHERE = frozenset({"task_id", "step", "usage"})

_STARTED = """INSERT INTO trials (key, split, step, attempt, started, settled) VALUES (?,?,?,?,?,?)
    ON CONFLICT DO UPDATE SET step = excluded.step, started = excluded.started, settled = coalesce(excluded.settled, settled)"""
_ATTEMPT = """INSERT INTO trials (key, split, task, sample, version, attempt) VALUES (?,?,?,?,?,?)
    ON CONFLICT DO UPDATE SET task = excluded.task, sample = excluded.sample, version = excluded.version, attempt = excluded.attempt"""
_LOST = """UPDATE trials SET outcome = 'lost', fate = 'failed'
    WHERE task = ? AND split = ? AND sample = ? AND version = ? AND attempt < ? AND outcome IS NULL"""
_SETTLED_AT = """INSERT INTO trials (key, split, step, settled) VALUES (?,?,?,?)
    ON CONFLICT DO UPDATE SET step = excluded.step, settled = excluded.settled"""
_FAILED = "UPDATE trials SET outcome = ?, error = ?, fate = 'failed' WHERE key = ? AND outcome IS NULL"
_MEAN = "INSERT INTO gauge_means VALUES (?,?,1,?) ON CONFLICT DO UPDATE SET n = n + 1, total = total + excluded.total"
_RESULT_FIELDS = (
    *("split", "task", "sample", "version", "step", "outcome", "in_loss", "reward", "turns", "attempts", "session"),
    *("queue_s", "setup_s", "agent_s", "verifier_s", "hold_s", "total_s"),
    *("model_s", "prompt_tokens", "cached_tokens", "sampled_tokens", "error", "findings", "more"),
)
_RESULT = f"""INSERT INTO trials (attempt, key, {", ".join(_RESULT_FIELDS)}) VALUES (?,?{",?" * len(_RESULT_FIELDS)})
    ON CONFLICT DO UPDATE SET attempt = coalesce(excluded.attempt, attempt),
        {", ".join(f"{name} = excluded.{name}" for name in _RESULT_FIELDS)}"""


class Taker:
    """Writes into one index inside the caller's transaction. ``changed`` collects the (split, step) whose sums are to be made again."""

    def __init__(self, db: sqlite3.Connection):
        self._db = db
        self._names = {name: id for id, name in db.execute("SELECT id, name FROM names")}
        self.changed: set[tuple[str, int]] = set()
        self.broken = 0

    def events(self, lines: Iterable[bytes]) -> None:
        """A trial that starts and settles within ``lines`` is written once."""
        kept, settled, gauges = [], [], []
        started: dict[str, list[Any]] = {}
        failed: list[tuple[str, str | None, str]] = []
        counts: Counter[str] = Counter()
        last: dict[str, float] = {}
        for event in self._objects(lines, ("time", "kind")):
            kind, time, trial, step = event["kind"], event["time"], event.get("trial"), event.get("step")
            try:
                if kind == "trial.started":
                    started[event["trial"]] = [event["trial"], event["split"], event["step"], event["attempt"], time, None]
                elif kind == "trial.settled":
                    key = trial or f"{event['split']}|{event['task_hash']}|{event['sample']}|{event['version']}"
                    if key in started:
                        started[key][5] = time
                    else:
                        settled.append((key, event["split"], event["step"], time))
                elif kind == "trial.failed" and trial:
                    failed.append((event["outcome"], event.get("error"), trial))
            except (KeyError, TypeError):
                self.broken += 1
                continue
            counts[kind] += 1
            last[kind] = time
            if kind in GAUGES:
                group = GAUGES[kind]
                gauges += [(self._name(f"{group}.{name}"), time, float(v)) for name, v in event.items() if name != "time" and _is_number(v)]
            elif kind not in COUNTED:
                rest = {k: v for k, v in event.items() if k not in ("time", "source", "kind", "step", "trial")}
                data = orjson.dumps(rest).decode()
                kept.append(
                    (time, str(event.get("source", "")), kind, step if isinstance(step, int) else None, _text(trial), data[:MAX_FIELD])
                )
        db = self._db
        db.executemany("INSERT INTO events (time, source, kind, step, trial, data) VALUES (?,?,?,?,?,?)", kept)
        db.executemany(_STARTED, started.values())
        db.executemany(_SETTLED_AT, settled)
        db.executemany(_FAILED, failed)
        db.executemany("INSERT OR REPLACE INTO gauges VALUES (?,?,?)", gauges)
        db.executemany(_MEAN, [(name, int(time // BUCKET_S), value) for name, time, value in gauges])
        db.executemany(
            "INSERT INTO counts VALUES (?,?,?) ON CONFLICT DO UPDATE SET n = n + excluded.n, last = max(last, excluded.last)",
            [(kind, n, last[kind]) for kind, n in counts.items()],
        )

    def journal(self, lines: Iterable[bytes]) -> None:
        """The runner's: attempts and results. An attempt whose result is in ``lines`` too is written once, with it."""
        attempts: dict[str, tuple[Any, ...]] = {}
        lost, results, tasks = [], [], {}
        for line in self._objects(lines, ("kind",)):
            try:
                if line["kind"] == "attempt":
                    who, number = line["identity"], line["attempt"]
                    attempts[line["trial_name"]] = (who["split"], who["task_hash"], who["sample"], who["version"], number)
                    if number > 1:
                        lost.append((who["task_hash"], who["split"], who["sample"], who["version"], number))
                elif line["kind"] == "settled":
                    row = _result_row(line["result"])
                    *_, number = attempts.pop(row[0], (None,))
                    results.append((number, *row))
                    tasks[line["result"]["identity"]["task_hash"]] = line["result"]["info"].get("task_id")
            except (KeyError, TypeError, AttributeError):
                self.broken += 1
        db = self._db
        db.executemany(_ATTEMPT, [(name, *attempt) for name, attempt in attempts.items()])
        db.executemany(_LOST, lost)
        db.executemany(_RESULT, results)
        db.executemany("INSERT OR IGNORE INTO tasks VALUES (?,?)", [(hash, str(id)) for hash, id in tasks.items() if id])
        self.changed |= {(row[2], row[6]) for row in results}

    def metrics(self, lines: Iterable[bytes], anew: bool) -> None:
        """``metrics.jsonl``; ``anew``: the trainer rewrote it, and what it said before no longer stands."""
        if anew:
            self._db.execute("DELETE FROM points")
        order = self._db.execute("SELECT coalesce(max(ord), 0) FROM points").fetchone()[0]
        points = []
        for row in self._objects(lines, ("step", "lineage", "data")):
            order += 1
            data = row["data"] if isinstance(row["data"], dict) else {}
            points += [(self._name(n), row["step"], str(row["lineage"]), order, float(v)) for n, v in data.items() if _is_number(v)]
        self._db.executemany("INSERT OR REPLACE INTO points VALUES (?,?,?,?,?)", points)

    def _name(self, name: str) -> int:
        id = self._names.get(name)
        if id is None:
            id = self._db.execute("INSERT INTO names (name) VALUES (?)", (name,)).lastrowid
            assert id is not None
            self._names[name] = id
        return id

    def _objects(self, lines: Iterable[bytes], needed: tuple[str, ...]) -> Iterator[dict[str, Any]]:
        for line in lines:
            if not line.strip():
                continue
            try:
                value = orjson.loads(line)
                if not isinstance(value, dict) or any(name not in value for name in needed):
                    raise ValueError
            except ValueError:  # orjson's error is one too
                self.broken += 1
                continue
            yield value


def _result_row(result: Mapping[str, Any]) -> tuple[Any, ...]:
    who, timing, info = result["identity"], result["timing"], result["info"]
    usage = info.get("usage") or {}
    key = result["trial_name"] or f"{who['split']}|{who['task_hash']}|{who['sample']}|{who['version']}"
    return (
        key,
        who["split"],
        who["task_hash"],
        who["sample"],
        who["version"],
        int(info["step"]),
        result["outcome"],
        int(result["in_loss"]),
        result["reward"] if result["graded"] else None,
        result["turns"],
        result["attempts"],
        result["session"],
        *(timing[name] for name in ("queue_s", "setup_s", "agent_s", "verifier_s", "hold_s", "total_s")),
        *(usage.get(name) for name in ("model_s", "prompt_tokens", "cached_tokens", "sampled_tokens")),
        (result["error"] or None) and result["error"][:2000],
        len(info.get("findings") or ()),
        orjson.dumps({"rewards": result["rewards"], **{k: v for k, v in info.items() if k not in _ELSEWHERE}}).decode()[:MAX_FIELD],
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)[:500]
