"""How busy the host and the engines are, as events for readers: ``host.sample`` every half minute, ``engine.rates`` from rate lines.

Shares are between 0 and 1. A figure that cannot be had (no GPU, no driver's tool) is absent, never 0.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from swerl.record.cards import nvidia_smi
from swerl.record.events import EventLog

EVERY_S = 30.0
_ENGINE = re.compile(r"Engine (\d+)")
_RATES = {
    "prompt_tokens_s": (re.compile(r"Avg prompt throughput: ([\d.]+)"), 1.0),
    "generated_tokens_s": (re.compile(r"Avg generation throughput: ([\d.]+)"), 1.0),
    "running": (re.compile(r"Running: (\d+)"), 1.0),
    "waiting": (re.compile(r"Waiting: (\d+)"), 1.0),
    "kv_cache": (re.compile(r"KV cache usage: ([\d.]+)%"), 0.01),
    "prefix_hits": (re.compile(r"Prefix cache hit rate: ([\d.]+)%"), 0.01),
}
_SUMMED = frozenset({"prompt_tokens_s", "generated_tokens_s", "running", "waiting"})


def engine_rates(lines: Sequence[str]) -> dict[str, float]:
    """The newest line of every engine, together: rates and requests added up, shares averaged."""
    newest: dict[str, str] = {}
    for line in lines:
        engine = _ENGINE.search(line)
        newest[engine[1] if engine else ""] = line
    found: dict[str, float] = {"engines": len(newest)}
    for name, (pattern, factor) in _RATES.items():
        values = [float(match[1]) * factor for line in newest.values() if (match := pattern.search(line))]
        if values:
            found[name] = round(sum(values) / (1 if name in _SUMMED else len(values)), 4)
    return found


class HostSampler(threading.Thread):
    """A thread of its own, so that a driver's tool that hangs keeps nobody waiting. ``used_mb`` tells the run's memory."""

    def __init__(self, events: EventLog, root: Path, used_mb: Callable[[], int], every_s: float = EVERY_S):
        super().__init__(name="host-sampler", daemon=True)
        self._events, self._root, self._used_mb, self._every_s = events, root, used_mb, every_s
        self._ended = threading.Event()

    def run(self) -> None:
        psutil.cpu_percent()  # the first call only begins the interval
        while not self._ended.wait(self._every_s):
            with suppress(OSError):  # a full disk: the next sample may find room
                sample = self.sample()
                if not self._ended.is_set():
                    self._events.emit("host.sample", **sample)

    def stop(self) -> None:
        self._ended.set()
        self.join(timeout=2.0)  # a hanging tool of the driver's ends by its own limit; the thread ends with the process

    def sample(self) -> dict[str, float]:
        memory = psutil.virtual_memory()
        found: dict[str, float] = {
            "cpu": round(psutil.cpu_percent() / 100, 3),
            "memory_used_mb": (memory.total - memory.available) >> 20,
            "disk_free_gb": round(shutil.disk_usage(self._root).free / 1e9, 1),
        }
        if used := self._used_mb():
            found["run_memory_mb"] = used
        return found | gpu_sample()


def gpu_sample() -> dict[str, float]:
    """Means over the visible GPUs; empty where there are none."""
    query = nvidia_smi(["--query-gpu=utilization.gpu,memory.used,memory.total", "--format=csv,noheader,nounits"])
    try:
        told = subprocess.run(query, capture_output=True, text=True, timeout=10)
        rows = [[float(word) for word in line.split(",")] for line in told.stdout.splitlines() if line.strip()]
    except (FileNotFoundError, subprocess.TimeoutExpired, ValueError):  # no driver, one that hangs, a card that says [N/A]
        return {}
    if told.returncode != 0 or not rows:
        return {}
    busy = sum(row[0] for row in rows) / len(rows) / 100
    return {"gpus": len(rows), "gpu_busy": round(busy, 3), "gpu_memory": round(sum(r[1] for r in rows) / sum(r[2] for r in rows), 3)}
