"""Trials: outcomes by step, where their time went, the slowest, lists to choose from, and what the tail-killer decided."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

import orjson

from swerl.dashboard.context import Seen

PHASES = ("queue_s", "setup_s", "agent_s", "verifier_s", "hold_s", "total_s")
ORDERS: Mapping[str, str] = {
    "newest": "settled DESC",
    "slowest": "total_s DESC",
    "turns": "turns DESC",
    "tokens": "sampled_tokens DESC",
    "reward": "reward DESC",
}
ORDER_INDEX: Mapping[str, str] = {
    "newest": "trials_by_settled",
    "slowest": "trials_by_time",
    "turns": "trials_by_turns",
    "tokens": "trials_by_tokens",
    "reward": "trials_by_reward",
}
WIDE = ("trials_found", "trials_by_words")
FEW = 5000
COUNTED = 100_000
_LISTED = (
    "key, split, task, sample, version, step, attempt, started, settled, outcome, in_loss, reward, turns, attempts, queue_s, setup_s,"
    " agent_s, verifier_s, hold_s, total_s, model_s, sampled_tokens, error, findings, fate"
)


def by_step(seen: Seen, split: str) -> list[dict[str, Any]]:
    """For every step its trials by outcome and by fate, and mean seconds by phase."""
    steps: dict[int, dict[str, Any]] = {}
    for row in seen.rows("SELECT * FROM steps WHERE split = ? ORDER BY step", split):
        entry = steps.setdefault(
            row["step"],
            {"step": row["step"], "trials": 0, "outcomes": defaultdict(int), "fates": defaultdict(int), "sums": defaultdict(float)},
        )
        entry["trials"] += row["trials"]
        entry["outcomes"][row["outcome"]] += row["trials"]
        entry["fates"][row["fate"]] += row["trials"]
        for phase in (*PHASES, "model_s", "turns"):
            entry["sums"][phase] += row[phase]
    for entry in steps.values():
        sums = entry.pop("sums")
        entry["mean"] = {name: value / entry["trials"] for name, value in sums.items()}
    return list(steps.values())


def listed(seen: Seen, *, where: Mapping[str, Any], order: str, limit: int, offset: int) -> dict[str, Any]:
    """Trials that fit ``where`` (split, step, outcome, fate, task, findings, resolved), and how many there are."""
    conditions, parameters = ["1"], []
    for name in ("split", "step", "outcome", "fate", "task"):
        if where.get(name) is not None:
            conditions.append(f"{name} = ?")
            parameters.append(where[name])
    if where.get("findings"):
        conditions.append("findings > 0")
    if where.get("resolved") is not None:
        conditions.append("reward >= 1" if where["resolved"] else "reward < 1")
    if where.get("text"):
        conditions.append("(key LIKE ? ESCAPE '\\' OR error LIKE ? ESCAPE '\\')")
        word = "%" + str(where["text"]).replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
        parameters += [word, word]
    condition = " AND ".join(conditions)
    ids = seen.tasks()
    narrow = _narrow(seen, where)
    asked = {name for name, value in where.items() if value not in (None, "") and (name, value) != ("findings", False)}
    if asked <= {"split", "outcome", "fate"}:
        total = _counted(seen, where)
    else:
        source = seen.trials_by(narrow) if narrow else "trials"
        total = seen.one(f"SELECT count(*) FROM (SELECT 1 FROM {source} WHERE {condition} LIMIT {COUNTED})", *parameters)
    rows = []
    if offset < total or total == COUNTED:
        walked = narrow is None or (narrow in WIDE and total > FEW)
        source = seen.trials_by(ORDER_INDEX[order] if walked else narrow)
        rows = seen.rows(
            f"SELECT {_LISTED} FROM {source} WHERE {condition} ORDER BY {ORDERS[order]} LIMIT ? OFFSET ?", *parameters, limit, offset
        )
    return {"total": total, "counted": total < COUNTED, "trials": [{**dict(row), "task_id": ids.get(row["task"])} for row in rows]}


def _narrow(seen: Seen, where: Mapping[str, Any]) -> str | None:
    """The index that leads to what fits; None where so much fits that trials are walked in the order that is wanted until there are
    enough. Those in ``WIDE`` may lead to many."""
    if where.get("task"):
        return "trials_by_task"
    if where.get("step") is not None and where.get("split"):
        return "trials_by_step"
    if where.get("findings"):
        return "trials_found"
    if where.get("text"):
        return "trials_by_words"
    for name, index in (("outcome", "trials_by_outcome"), ("fate", "trials_by_fate"), ("split", "trials_by_step")):
        if where.get(name) is not None and _counted(seen, {name: where[name]}) <= FEW:
            return index
    return None


def _counted(seen: Seen, where: Mapping[str, Any]) -> int:
    """Trials with these values, from the sums by step and what has not settled."""
    named = [(name, where[name]) for name in ("split", "outcome", "fate") if where.get(name) is not None]
    condition = " AND ".join(["1", *(f"{name} = ?" for name, _ in named)])
    values = [value for _, value in named]
    settled = seen.one(f"SELECT coalesce(sum(trials), 0) FROM steps WHERE {condition}", *values)
    return settled + seen.one(f"SELECT count(*) FROM {seen.trials_by('trials_by_time')} WHERE {condition} AND total_s IS NULL", *values)


def timeline(seen: Seen, split: str, step: int) -> dict[str, Any]:
    """The trials of one step on a common clock: ``at`` seconds after the first was asked for, then their phases in order.

    ``tools_s`` is the agent's time without the model's and without waiting for the engine; both are None where the model's time was not
    recorded. ``attempts_s``: earlier attempts of the same trial, their sandboxes and the pauses between them."""
    ids = seen.tasks()
    rows = seen.rows(
        f"SELECT {_LISTED} FROM trials WHERE split = ? AND step = ? AND total_s IS NOT NULL AND settled IS NOT NULL"
        " ORDER BY settled - total_s",
        split,
        step,
    )
    zero = min((row["settled"] - row["total_s"] for row in rows), default=0.0)
    found = []
    for row in rows:
        agent_s, model_s, hold_s = row["agent_s"] or 0.0, row["model_s"], row["hold_s"] or 0.0
        known = (row["queue_s"] or 0) + (row["setup_s"] or 0) + agent_s + (row["verifier_s"] or 0)
        found.append(
            {
                "key": row["key"],
                "task_id": ids.get(row["task"], row["task"]),
                "sample": row["sample"],
                "outcome": row["outcome"],
                "fate": row["fate"],
                "reward": row["reward"],
                "at": row["settled"] - row["total_s"] - zero,
                "queue_s": row["queue_s"] or 0.0,
                "setup_s": row["setup_s"] or 0.0,
                "model_s": None if model_s is None else min(model_s, agent_s),
                "tools_s": None if model_s is None else max(0.0, agent_s - model_s - hold_s),
                "hold_s": min(hold_s, agent_s),
                "agent_s": agent_s,
                "verifier_s": row["verifier_s"] or 0.0,
                "attempts_s": max(0.0, row["total_s"] - known) if (row["attempts"] or 1) > 1 else 0.0,
                "total_s": row["total_s"],
            }
        )
    return {"split": split, "step": step, "zero": zero, "trials": found}


def tail(seen: Seen) -> dict[str, Any]:
    """Every decision of the tail-killer: who, why, what it saved, what it cost.

    ``saved_s`` of a trial is an estimate: how much longer the run's finished trials went on, on average, that had run as long as this one
    had. ``step_saved_s``, the largest of a step, estimates how much earlier the step could go on."""
    finished = _Durations(seen)
    cuts: dict[int, dict[str, Any]] = {}
    ids = seen.tasks()
    killed = {
        f"{row['split']}|{row['task']}|{row['sample']}|{row['version']}": {name: row[name] for name in ("key", "sampled_tokens", "turns")}
        for row in seen.rows(
            "SELECT key, split, task, sample, version, sampled_tokens, turns FROM trials WHERE outcome = 'tail_killed' ORDER BY attempt"
        )
    }
    for row in seen.rows("SELECT time, step, trial, data FROM events WHERE kind = 'tail.killed' ORDER BY time"):
        data = orjson.loads(row["data"])
        ran_s = float(data.get("ran_s") or 0.0)
        _, task, sample, _ = (*str(row["trial"]).split("|"), "", "", "", "")[:4]
        trial = killed.get(row["trial"], {"key": None, "sampled_tokens": None, "turns": None})
        step = cuts.setdefault(row["step"], {"step": row["step"], "time": row["time"], "done": data.get("done"), "killed": [], "spared": 0})
        decided = bool(data.get("group_decided"))
        step["killed"].append(
            {
                **trial,
                "task_id": ids.get(task, task),
                "sample": sample,
                "ran_s": ran_s,
                "why": "its group is decided: rewards differ already" if decided else "still running after a second grace period",
                "decided": decided,
                "saved_s": finished.longer_than(ran_s),
            }
        )
    for row in seen.rows("SELECT step, data FROM events WHERE kind = 'tail.cut'"):
        if row["step"] in cuts:
            cuts[row["step"]]["spared"] = orjson.loads(row["data"]).get("spared", 0)
    for cut in cuts.values():
        cut["step_saved_s"] = max((k["saved_s"] for k in cut["killed"] if k["saved_s"] is not None), default=None)
        cut["cost_s"] = sum(k["ran_s"] for k in cut["killed"])
        cut["cost_tokens"] = sum(k["sampled_tokens"] or 0 for k in cut["killed"])
    return {
        "target": seen.value("harbor_runtime.tail_kill_target"),
        "grace_s": seen.value("harbor_runtime.tail_kill_grace_sec"),
        "min_trials": seen.value("harbor_runtime.tail_kill_min_tasks"),
        "cuts": list(cuts.values()),
    }


class _Durations:
    """How long graded training trials worked, as `sums.work_of` groups them."""

    def __init__(self, seen: Seen):
        rows = seen.rows("SELECT seconds, sum(n), sum(total) FROM work GROUP BY seconds ORDER BY seconds")
        self._seconds = [row[0] for row in rows]
        self._counts = list(accumulate((row[1] for row in reversed(rows)), initial=0))[::-1]
        self._sums = list(accumulate((row[2] for row in reversed(rows)), initial=0.0))[::-1]

    def longer_than(self, ran_s: float) -> float | None:
        """Mean of what exceeds ``ran_s`` over those that took longer; None when there is none."""
        first = bisect_right(self._seconds, ran_s)
        count = self._counts[first]
        return max(0.0, self._sums[first] / count - ran_s) if count else None
