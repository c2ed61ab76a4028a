"""The supervisor's look at what no process of the run reports: GPUs, disk, shared memory, and whether gateway and runner answer.

A sample is one event of kind ``sample``. It is taken in a thread of its own, because a full disk, a driver or a service that hangs must not
hold up the supervisor; while one is being taken no other is begun. Every part that cannot be had is absent, never guessed.
"""

from __future__ import annotations

import http.client
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson

from swerl.record.cards import nvidia_smi
from swerl.record.rundir import RunDir, read_json
from swerl.watch.terms import Terms

ANSWER_S = 5.0
DRIVER_S = 20.0
SHM = Path("/dev/shm")
# What is kept of a service's own numbers: where its address and token stand in services.json, and the names of /stats.
SERVICES: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    "gateway": (
        "admin_url",
        "admin_token",
        ("sessions", "working", "in_flight", "waiting", "prompt_tokens", "cached_tokens", "sampled_tokens"),
    ),
    "runner": ("url", "token", ("running", "queued")),
}


class Sampler:
    """Calls ``emit(kind, **fields)`` with a sample at most every ``watch.sample_sec`` seconds, from another thread."""

    def __init__(self, run: RunDir, terms: Terms, emit: Callable[..., None]):
        self._run, self._every_s, self._emit = run, terms.watch.sample_sec, emit
        self._last = float("-inf")
        self._thread: threading.Thread | None = None

    def tick(self, now: float) -> None:
        """Begin a sample if one is due and none is under way. ``now`` is monotonic."""
        if now - self._last < self._every_s or (self._thread is not None and self._thread.is_alive()):
            return
        self._last = now
        self._thread = threading.Thread(target=self._take, name="sample", daemon=True)
        self._thread.start()

    def _take(self) -> None:
        try:
            self._emit("sample", **sample(self._run))
        except OSError:
            return  # the run directory is gone or the disk is full: the supervisor's own writes say so with an id


def sample(run: RunDir) -> dict[str, Any]:
    found: dict[str, Any] = {**_disk(run.root), "gpus": gpus()}
    entries = read_json(run.services) or {}
    for name, (url, token, wanted) in SERVICES.items():
        entry = entries.get(name)
        if entry and entry.get(url):
            found[name] = _stats(entry[url], entry.get(token, ""), wanted)
    return {key: value for key, value in found.items() if value is not None}


def _disk(root: Path) -> dict[str, int]:
    shared = os.statvfs(SHM)
    return {
        "disk_free_bytes": shutil.disk_usage(root).free,
        "shm_free_bytes": shared.f_bavail * shared.f_frsize,
        "shm_bytes": shared.f_blocks * shared.f_frsize,
    }


def gpus() -> list[dict[str, int]] | None:
    """Utilisation and memory of each card; None on a machine without a driver, or whose driver gives no answer."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = nvidia_smi(["--query-gpu=utilization.gpu,memory.used,memory.total", "--format=csv,noheader,nounits"])
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=DRIVER_S)
    except subprocess.TimeoutExpired:
        return None
    rows = [line.split(",") for line in answer.stdout.splitlines()] if answer.returncode == 0 else []
    found = []
    for row in rows:
        busy, used, total = (int(part) if part.strip().isdigit() else None for part in row)
        if busy is None or used is None or total is None:
            return None  # a card that does not report (MIG): nothing can be said about any
        found.append({"busy_percent": busy, "memory_mb": used, "memory_total_mb": total})
    return found or None


def _stats(url: str, token: str, wanted: tuple[str, ...]) -> dict[str, Any]:
    """A service's ``/stats``, as far as it is wanted; ``answers`` is False where none came in time."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=ANSWER_S)
    try:
        connection.request("GET", address.path.rstrip("/") + "/stats", headers={"Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        body = orjson.loads(answer.read()) if answer.status == 200 else {}
        return {"answers": True, **{name: body[name] for name in wanted if name in body}}
    except (OSError, http.client.HTTPException, orjson.JSONDecodeError):
        return {"answers": False}
    finally:
        connection.close()
