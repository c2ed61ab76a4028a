"""What the trials of a step came to: verdicts by group, sums by outcome, and what became of every trial (its fate).

| fate | a trial that |
|---|---|
| trained | is in the loss, in a group whose rewards differ |
| no signal | is in the loss, in a group where every reward is the same: its advantage is zero |
| masked | has a verdict, and its outcome keeps it out of the loss, or its group had fewer than two rows |
| killed | was ended by the tail-killer, or cancelled |
| failed | has no verdict: sandbox, verifier or host broke |
| superseded | ran under weights that no checkpoint in use descends from |
| validation | measured the policy |
| run again | settled without a verdict and was asked for again |
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from swerl.record.results import RESOLVED_AT

FATES = ("trained", "no signal", "masked", "killed", "failed", "superseded", "run again", "validation")
MIN_GROUP = 2
_SUMMED = (
    *("attempts", "turns", "queue_s", "setup_s", "agent_s", "verifier_s", "hold_s", "total_s"),
    *("model_s", "prompt_tokens", "cached_tokens", "sampled_tokens"),
)


class Versions:
    """Which versions of the weights the run still stands on: of each start of the trainer those that the next one did not leave behind."""

    def __init__(self, starts: Sequence[Mapping[str, Any]] = ()):
        self._last_step: dict[str, int] = {}  # lineage -> its last step that still counts; absent: none
        self._restored: set[str] = {"init:0"}
        version: str | None = None
        for start in reversed(starts):
            name = f"L{start['epoch']}"
            if version is None:
                self._last_step[name] = 1 << 60
            elif version.partition(":")[0] == name:
                self._last_step[name] = int(version.rpartition(":")[2])
            else:
                continue  # nothing of this start was restored by a later one that counts
            version = start["base_version"]
            self._restored.add(version)
        self.known = bool(starts)

    @classmethod
    def of(cls, path: Path) -> Versions:
        try:
            starts = orjson.loads(path.read_bytes())
            return cls(starts if isinstance(starts, list) else ())
        except (FileNotFoundError, orjson.JSONDecodeError):
            return cls()

    def stands(self, version: str | None) -> bool:
        if not self.known or version is None or version in self._restored:
            return True
        lineage, _, step = version.rpartition(":")
        return lineage in self._last_step and step.isdigit() and int(step) <= self._last_step[lineage]


def sum_up(db: sqlite3.Connection, changed: Collection[tuple[str, int]], versions: Versions) -> None:
    """Make groups, sums and fates of these (split, step) again."""
    columns = "id, task, sample, version, attempt, outcome, in_loss, reward, fate, findings, " + ", ".join(_SUMMED)
    for split, step in sorted(changed):
        cursor = db.execute(f"SELECT {columns} FROM trials WHERE split = ? AND step = ? AND total_s IS NOT NULL", (split, step))
        names = [part[0] for part in cursor.description]
        rows = [dict(zip(names, row, strict=True)) for row in cursor]
        _judge(split, rows, versions)
        db.executemany("UPDATE trials SET fate = ? WHERE id = ?", [(r["new_fate"], r["id"]) for r in rows if r["new_fate"] != r["fate"]])
        db.execute("DELETE FROM groups WHERE split = ? AND step = ?", (split, step))
        db.execute("DELETE FROM steps WHERE split = ? AND step = ?", (split, step))
        if split == "train":
            db.execute("DELETE FROM work WHERE step = ?", (step,))
            db.executemany("INSERT INTO work VALUES (?,?,?,?)", _work(step, rows))
        db.executemany("INSERT INTO groups VALUES (?,?,?,?,?,?,?,?)", _groups(split, step, rows))
        db.executemany(f"INSERT INTO steps VALUES ({','.join('?' * 20)})", _sums(split, step, rows))


def _judge(split: str, rows: list[dict[str, Any]], versions: Versions) -> None:
    """Sets ``new_fate`` of every row."""
    last: dict[tuple, dict[str, Any]] = {}
    for row in sorted(rows, key=lambda r: r["attempt"] or 0):
        last[row["task"], row["sample"], row["version"]] = row
    counted = {id(row) for row in last.values()}
    groups: dict[tuple, list[float]] = defaultdict(list)
    for row in last.values():
        if row["in_loss"] and row["reward"] is not None:
            groups[row["task"], row["version"]].append(row["reward"])
    for row in rows:
        rewards = groups.get((row["task"], row["version"]), [])
        row["new_fate"] = _fate(split, row, id(row) in counted, rewards, versions)


def _fate(split: str, row: Mapping[str, Any], counted: bool, rewards: list[float], versions: Versions) -> str:
    if not counted:
        return "run again"
    if not versions.stands(row["version"]):
        return "superseded"
    if split == "val":
        return "validation"
    if row["outcome"] in ("tail_killed", "cancelled"):
        return "killed"
    if row["reward"] is None:
        return "failed"
    if not row["in_loss"] or len(rewards) < MIN_GROUP:
        return "masked"
    return "trained" if len(set(rewards)) > 1 else "no signal"


def _groups(split: str, step: int, rows: Iterable[Mapping[str, Any]]) -> list[tuple]:
    """One row a task. Superseded trials and those run again do not count."""
    tasks: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["new_fate"] not in ("superseded", "run again"):
            tasks[row["task"]].append(row)
    found = []
    for task, group in tasks.items():
        rewards = [row["reward"] for row in group if row["reward"] is not None]
        resolved = sum(reward >= RESOLVED_AT for reward in rewards)
        signal = len(set(rewards)) > 1
        mean = sum(rewards) / len(rewards) if rewards else None
        found.append((split, step, task, len(group), len(rewards), resolved, mean, int(signal)))
    return found


def work_of(seconds: float) -> int:
    """Which row of ``work`` a duration belongs to: whole seconds up to a minute, then to within 3 %."""
    whole = int(seconds)
    return whole - whole % (1 << max(0, whole.bit_length() - 6))


def _work(step: int, rows: Iterable[Mapping[str, Any]]) -> list[tuple]:
    found: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        if row["reward"] is not None:
            seconds = row["agent_s"] + row["setup_s"]
            found[work_of(seconds)].append(seconds)
    return [(step, name, len(seconds), sum(seconds)) for name, seconds in found.items()]


def _sums(split: str, step: int, rows: Iterable[Mapping[str, Any]]) -> list[tuple]:
    parts: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        parts[row["outcome"], row["new_fate"]].append(row)
    return [
        (
            split,
            step,
            outcome,
            fate,
            len(part),
            *(sum(row[name] or 0 for row in part) for name in _SUMMED),
            sum(row["sampled_tokens"] is not None for row in part),
            sum(row["reward"] is not None and row["reward"] >= RESOLVED_AT for row in part),
            sum(row["findings"] or 0 for row in part),
        )
        for (outcome, fate), part in parts.items()
    ]
