"""Is it alive, how far is it, what does each process do now, what is wrong, and with which configuration?"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import orjson
import psutil

from swerl.config.schema import keys
from swerl.dashboard.context import Seen, secret_names
from swerl.dashboard.views.alarms import alarms
from swerl.record.memory import used_mb
from swerl.record.pace import left_s, recent_step_s, validation_s
from swerl.record.registry import Registry
from swerl.record.states import LIVE

REWARDS = ("critic/score/mean", "critic/rewards/mean")
_DOING: Mapping[str, str] = {
    "run.running": "starting its services",
    "trainer.start": "loading Ray, engine and weights",
    "engine.ready": "sampling trials",
    "engine.resumed": "sampling trials",
    "engine.paused": "updating the policy",
    "validation.begin": "validating",
    "validation.end": "sampling trials",
    "step.begin": "sampling trials",
    "run.stopping": "stopping",
}


def overview(seen: Seen) -> dict[str, Any]:
    row = seen.row
    state = str(row.state) if row else str(seen.manifest.get("state") or "archived")
    live = row is not None and row.state in LIVE
    steps = seen.points("timing_s/step")
    trained = [step for step in steps if step >= 1]
    step_s = recent_step_s(steps)
    last = max(trained, default=0)
    every = int(seen.value("training.test_freq") or 0)
    total = row.total_steps if row else None
    attempts = seen.manifest.get("attempts") or []
    newest = attempts[-1] if attempts else {}
    return {
        "run": seen.run.id,
        "project": seen.manifest.get("project"),
        "state": state,
        "live": live,
        "problem": row.problem if row else None,
        "attempt": row.attempt if row else len(attempts),
        "started": row.started if row else newest.get("started"),
        "first_started": attempts[0].get("started") if attempts else None,
        "ended": row.ended if row and not live else None,
        "now": time.time(),
        "step": last,
        "total_steps": total,
        "step_s": step_s,
        "left_s": left_s(last, total, step_s, every, validation_s(_validations(seen))) if live and last else None,
        "doing": _doing(seen) if live else None,
        "reward": next((series[max(series)] for name in REWARDS if (series := seen.points(name))), None),
        "rewards": list(next((series for name in REWARDS if (series := seen.points(name))), {}).items()),
        "validations": [{"step": s, "value": v} for s, v in seen.points("swerl/val/resolve_rate").items()],
        "trials": _trials(seen, live),
        "processes": processes(seen) if live else [],
        "alarms": alarms(seen, live),
        "checkpoints": _checkpoints(seen),
        "commit": (newest.get("source") or {}).get("commit"),
        "dirty": (newest.get("source") or {}).get("dirty"),
        "host": newest.get("host"),
        "versions": newest.get("versions"),
        "command": newest.get("command"),
        "broken_lines": int(seen.one("SELECT value FROM meta WHERE name = 'broken_lines'") or 0),
    }


def _doing(seen: Seen) -> dict[str, Any] | None:
    """The newest thing that trainer or supervisor began."""
    marks = ",".join("?" * len(_DOING))
    row = seen.db.execute(
        f"SELECT kind, time, step FROM events WHERE kind IN ({marks}) ORDER BY time DESC LIMIT 1", tuple(_DOING)
    ).fetchone()
    return None if row is None else {"what": _DOING[row["kind"]], "since": row["time"], "step": row["step"]}


def _validations(seen: Seen) -> list[dict[str, Any]]:
    rows = seen.rows("SELECT kind, time FROM events WHERE kind IN ('validation.begin', 'validation.end') ORDER BY time")
    return [dict(row) for row in rows]


def _trials(seen: Seen, live: bool) -> dict[str, Any]:
    outcomes = {row[0]: row[1] for row in seen.rows("SELECT outcome, sum(trials) FROM steps GROUP BY outcome")}
    waiting = seen.one("SELECT count(*) FROM trials WHERE outcome IS NULL AND started IS NOT NULL")
    return {"settled": sum(outcomes.values()), "running": waiting if live else 0, "outcomes": outcomes}


def processes(seen: Seen) -> list[dict[str, Any]]:
    """What the supervisor started and has not seen end, with memory of each and its descendants, and its last event."""
    if not seen.run.registry.is_file():
        return []
    registry = Registry(seen.run.registry)
    try:
        owned = registry.processes(seen.run.id)
    finally:
        registry.close()
    found = []
    for process in owned:
        alive, memory_mb, cpu_s = process.ref.alive(), None, None
        if alive:
            try:
                parent = psutil.Process(process.ref.pid)
                family = [parent, *parent.children(recursive=True)]
                memory_mb = used_mb([member.pid for member in family])
                cpu_s = sum(sum(member.cpu_times()[:2]) for member in family if member.is_running())
            except psutil.Error:  # it ended while it was looked at
                alive = process.ref.alive()
        last = seen.db.execute(
            "SELECT kind, time FROM events WHERE source = ? ORDER BY time DESC LIMIT 1", (_SOURCES.get(process.name, process.name),)
        ).fetchone()
        found.append(
            {
                "name": process.name,
                "pid": process.ref.pid,
                "alive": alive,
                "since": process.started,
                "memory_mb": memory_mb,
                "cpu_s": cpu_s,
                "last": dict(last) if last else None,
            }
        )
    return found


_SOURCES = {"trainer": "trainer", "gateway": "gateway", "runner": "runner"}


def _checkpoints(seen: Seen) -> list[dict[str, Any]]:
    """Committed ones by step, with those that retention deleted since."""
    found: dict[int, dict[str, Any]] = {}
    for row in seen.rows("SELECT time, step, data FROM events WHERE kind = 'checkpoint.committed' ORDER BY time"):
        data = orjson.loads(row["data"]) if row["data"].endswith("}") else {}
        found[row["step"]] = {"step": row["step"], "time": row["time"], "version": data.get("version"), "kept": True}
        for name in data.get("deleted") or []:
            step = str(name).rpartition("_")[2]
            if step.isdigit() and int(step) in found:
                found[int(step)]["kept"] = False
    return list(found.values())


def configuration(seen: Seen) -> list[dict[str, Any]]:
    """Every key in the schema's order: its value, its default, whether they differ, where it came from. Secrets are not in it."""
    source = seen.resolved.get("source") or {}
    hidden = secret_names()
    found = []
    for name, key in keys().items():
        if name in hidden or key.read_only:
            continue
        value = seen.value(name)
        place = source.get(name, "default")
        same = place == "default" or value == key.default or (value is None and key.default in ("", None))
        found.append(
            {
                "key": name,
                "value": value,
                "default": key.default,
                "differs": not same,
                "source": place,
                "description": key.description,
            }
        )
    for name, value in (seen.value("verl_overrides") or {}).items():
        found.append(
            {
                "key": f"verl_overrides.{name}",
                "value": value,
                "default": None,
                "differs": True,
                "source": "",
                "description": "A key of verl's.",
            }
        )
    return found


def difference(tables: Mapping[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Keys whose values are not the same in all of the runs' `configuration` tables."""
    found_values = {run: {entry["key"]: entry["value"] for entry in table} for run, table in tables.items()}
    names = list(dict.fromkeys(key for values in found_values.values() for key in values))
    found = []
    for key in names:
        values = {run: table.get(key) for run, table in found_values.items()}
        if len({orjson.dumps(value) for value in values.values()}) > 1:
            found.append({"key": key, "values": values})
    return found
