"""Is the hardware busy? Engine, gateway and host over time, and where a step's time goes."""

from __future__ import annotations

import shutil
from typing import Any

import orjson

from swerl.dashboard.context import Seen
from swerl.dashboard.store import BUCKET_S

BUCKETS = 400
EACH_S = 8 * 3600  # a longer run is shown by its stored means
PARTS = ("gen", "old_log_prob", "ref", "adv", "update_actor", "update_critic", "update_weights", "save_checkpoint", "testing")


def engine(seen: Seen) -> dict[str, Any]:
    return {"gauges": gauges(seen), "steps": busy(seen), "pauses": _pauses(seen), "disk": _disk(seen), "devices": seen.devices}


def gauges(seen: Seen) -> dict[str, Any]:
    """Every gauge as at most ``BUCKETS`` means over equal spans of time: ``{name: [[time, value], ...]}``."""
    first, last = seen.db.execute("SELECT min(bucket) * ?, max(bucket + 1) * ? FROM gauge_means", (BUCKET_S, BUCKET_S)).fetchone()
    if first is None:
        return {}
    found: dict[str, list[list[float]]] = {}
    if last - first > EACH_S:
        sql = """SELECT name, min(bucket) * :span, sum(total) / sum(n) FROM gauge_means
            GROUP BY name, CAST(bucket * :span / :width AS INTEGER) ORDER BY name, 2"""
    else:
        sql = """SELECT name, min(time), avg(value) FROM gauges
            GROUP BY name, CAST((time - :first) / :width AS INTEGER) ORDER BY name, 2"""
    width = max(1.0, (last - first) / BUCKETS)
    names = dict(seen.db.execute("SELECT id, name FROM names").fetchall())
    for name, time, value in seen.db.execute(sql, {"span": BUCKET_S, "first": first, "width": width}):
        found.setdefault(names[name], []).append([time, value])
    return found


def busy(seen: Seen) -> list[dict[str, Any]]:
    """For every step: seconds by part, and the share of its sampling time in which the places for trials were taken."""
    workers = int(seen.value("harbor_runtime.num_workers") or 0)
    wall = seen.points("timing_s/step")
    parts = {name: seen.points(f"timing_s/{name}") for name in PARTS}
    work = {
        row[0]: row[1]
        for row in seen.rows("SELECT step, sum(setup_s + agent_s + verifier_s) FROM steps WHERE split = 'train' GROUP BY step")
    }
    cached = {
        row[0]: row[1] / row[2]
        for row in seen.rows("SELECT step, sum(cached_tokens), sum(prompt_tokens) FROM steps WHERE split = 'train' GROUP BY step")
        if row[2]
    }
    found = []
    for step, seconds in wall.items():
        gen = parts["gen"].get(step)
        share = min(1.0, work[step] / (workers * gen)) if gen and workers and step in work else None
        spent = {name: series[step] for name, series in parts.items() if step in series}
        found.append({"step": step, "step_s": seconds, "parts": spent, "places_busy": share, "prefix_hits": cached.get(step)})
    return found


def _pauses(seen: Seen) -> list[dict[str, Any]]:
    """How long the engine was away for each update: from the pause's begin to the weights' arrival."""
    found, began = [], None
    for row in seen.rows("SELECT time, kind, step, data FROM events WHERE kind IN ('engine.paused', 'engine.resumed') ORDER BY time"):
        if row["kind"] == "engine.paused":
            began = row
        elif began is not None:
            data = orjson.loads(began["data"])
            found.append(
                {
                    "step": began["step"],
                    "away_s": row["time"] - began["time"],
                    "drain_s": data.get("pause_s"),
                    "aborted": data.get("aborted"),
                }
            )
            began = None
    return found


def _disk(seen: Seen) -> dict[str, Any]:
    usage = shutil.disk_usage(seen.run.root)
    return {"total": usage.total, "free": usage.free}
