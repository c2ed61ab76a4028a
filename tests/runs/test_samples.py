"""What host and engines say of themselves, as events."""

from __future__ import annotations

import time
from pathlib import Path

from swerl.record.events import EventLog, read_events
from swerl.runs.samples import HostSampler, engine_rates, gpu_sample

LINE = (
    "INFO 11-25 03:47:39 [loggers.py:273] Engine 00{0}: Avg prompt throughput: 100.5 tokens/s, Avg generation throughput: 44.0 tokens/s,"
    " Running: {1} reqs, Waiting: 1 reqs, GPU KV cache usage: {2}%, Prefix cache hit rate: 82.6%"
)


def test_rates_of_two_engines_together() -> None:
    lines = [LINE.format(0, 9, 90.0), LINE.format(0, 2, 10.0), LINE.format(1, 4, 30.0)]
    assert engine_rates(lines) == {
        "engines": 2,
        "prompt_tokens_s": 201.0,
        "generated_tokens_s": 88.0,
        "running": 6.0,
        "waiting": 2.0,
        "kv_cache": 0.2,
        "prefix_hits": 0.826,
    }
    assert engine_rates(["nothing of the kind"]) == {"engines": 1}


def test_the_sampler_tells_until_it_is_stopped(tmp_path: Path) -> None:
    events = EventLog(tmp_path / "supervisor.jsonl", "supervisor")
    sampler = HostSampler(events, tmp_path, lambda: 123, every_s=0.05)
    sampler.start()
    deadline = time.monotonic() + 20
    while not (told := list(read_events(events.path))) and time.monotonic() < deadline:
        time.sleep(0.02)
    sampler.stop()
    events.close()
    assert told[0]["kind"] == "host.sample" and told[0]["run_memory_mb"] == 123
    assert told[0]["cpu"] >= 0 and told[0]["memory_used_mb"] > 0 and told[0]["disk_free_gb"] > 0
    assert ("gpu_busy" in told[0]) is bool(gpu_sample())
