"""The dashboard on a made run of 200 steps x 512 trials: first index, start afterwards, every API call, live delay, memory, first paint.

The server is a process of its own, asked over HTTP as the page asks it. ``--steps=N`` makes a smaller run. First paint needs chromium.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import orjson
import psutil
from made_run import Shape, make

ROOT = Path(__file__).resolve().parents[2]
REPEATS = 25
RUN = "made"
CALLS = {
    "overview": "overview",
    "config": "config",
    "names": "names",
    "series (24 names)": "series?names=" + ",".join(["critic/score/mean", "actor/entropy", *(f"made/metric_{i:03d}" for i in range(22))]),
    "validations": "validations",
    "rates": "rates",
    "tasks, training": "tasks?split=train",
    "tasks, validation": "tasks?split=val",
    "steps": "steps?split=train",
    "trials, newest": "trials?split=train",
    "trials, slowest failed": "trials?split=train&outcome=infra_failed&order=slowest",
    "trials, searched": "trials?text=off-by-one&order=tokens",
    "trials, searched in vain": "trials?text=no-such-word&order=slowest",
    "trials, far down": "trials?split=train&order=turns&limit=100&offset=5000",
    "timeline": "timeline?split=train&step=100",
    "tail": "tail",
    "engine": "engine",
    "cost": "cost",
    "logs": "logs",
    "log, end": "log?name=trainer",
    "log, searched": "log?name=trainer&search=warning",
}
TARGETS = {"first index": 60.0, "start afterwards": 2.0, "p95 of the slowest call": 0.2, "live delay, worst of 5": 2.0, "first paint": 1.0}
MEMORY_MB = 500


@dataclass
class Server:
    process: subprocess.Popen[str]
    url: str
    started_s: float

    def memory_mb(self) -> float:
        return psutil.Process(self.process.pid).memory_info().rss / 2**20

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)


def start(runs: Path) -> Server:
    began = time.perf_counter()
    command = [sys.executable, "-m", "swerl.cli", "dashboard", "--runs-dir", str(runs), "--port", "0"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    assert process.stdout is not None
    url = process.stdout.readline().split()[1]
    return Server(process, url.rstrip("/"), time.perf_counter() - began)


async def until_read(http: aiohttp.ClientSession, url: str) -> float:
    """Seconds until the index has everything, by the server-sent events."""
    began = time.perf_counter()
    async with http.get(f"{url}/api/live?run={RUN}", timeout=aiohttp.ClientTimeout(total=600)) as stream:
        async for line in stream.content:
            if line.startswith(b"data: "):
                state = orjson.loads(line[6:])
                if state["revision"] >= 1 and state["behind"] == 0:
                    return time.perf_counter() - began
    raise RuntimeError("the stream ended")


async def call(http: aiohttp.ClientSession, url: str, path: str) -> float:
    began = time.perf_counter()
    async with http.get(f"{url}/api/run/{RUN}/{path}") as answer:
        await answer.read()
        assert answer.status == 200, (path, answer.status)
    return time.perf_counter() - began


async def live_delay(http: aiohttp.ClientSession, url: str, events: Path) -> float:
    """From a line in an event file to the event at the page."""
    async with http.get(f"{url}/api/live?run={RUN}") as stream:
        lines = stream.content
        await lines.readline()
        await lines.readline()
        await asyncio.sleep(0.3)
        began = time.perf_counter()
        with events.open("ab") as file:
            file.write(orjson.dumps({"time": time.time(), "source": "trainer", "kind": "made.mark"}) + b"\n")
        while not (await lines.readline()).startswith(b"data: "):
            pass
        return time.perf_counter() - began


async def first_paint(url: str) -> float | None:
    sys.path.insert(0, str(ROOT / "tests" / "browser"))
    from chrome import Chrome, binary

    if binary() is None:
        return None
    async with Chrome() as chrome:
        await chrome.look()
        times = []
        for _ in range(3):
            await chrome.open("about:blank")
            await chrome.open(f"{url}/#/{RUN}/overview")
            await chrome.until("document.querySelector('.figures')")
            times.append(await chrome.run("performance.getEntriesByName('first-contentful-paint')[0].startTime") / 1000)
        return statistics.median(times)


async def measure(shape: Shape) -> int:
    load = os.getloadavg()[0]
    calls = []
    with tempfile.TemporaryDirectory(prefix="swerl-bench-") as scratch:
        runs = Path(scratch) / "runs"
        run = make(runs / RUN, shape)
        size_mb = sum(path.stat().st_size for path in runs.rglob("*") if path.is_file()) / 2**20
        trials = shape.steps * shape.tasks * shape.samples
        print(f"made run: {shape.steps} steps, {trials} training trials, {size_mb:.0f} MB of events, journal and metrics\n")
        server = start(runs)
        try:
            async with aiohttp.ClientSession() as http:
                measured = {"first index": await until_read(http, server.url)}
                memory = server.memory_mb()
                server.stop()
                server = start(runs)
                began = time.perf_counter()
                await call(http, server.url, "overview")
                measured["start afterwards"] = server.started_s + time.perf_counter() - began
                worst = 0.0
                print(f"{'call':<26}{'median':>10}{'p95':>10}")
                for name, path in CALLS.items():
                    times = sorted([await call(http, server.url, path) for _ in range(REPEATS)])
                    p95 = times[int(0.95 * REPEATS)]
                    worst = max(worst, p95)
                    calls.append((name, statistics.median(times), p95))
                    print(f"{name:<26}{statistics.median(times) * 1000:>8.1f}ms{p95 * 1000:>8.1f}ms")
                measured["p95 of the slowest call"] = worst
                delays = [await live_delay(http, server.url, run.events_of("trainer")) for _ in range(5)]
                measured["live delay, worst of 5"] = max(delays)
                memory = max(memory, server.memory_mb())
                paint = await first_paint(server.url)
                if paint is not None:
                    measured["first paint"] = paint
        finally:
            server.stop()
    lines = [("| what | measured | target | |"), "|---|---|---|---|"]
    failed = 0
    for name, seconds in measured.items():
        kept = seconds <= TARGETS[name]
        failed += not kept
        lines.append(f"| {name} | {seconds:.2f} s | {TARGETS[name]:.1f} s | {'' if kept else 'missed'} |")
    kept = memory <= MEMORY_MB
    lines.append(f"| memory of the server | {memory:.0f} MB | {MEMORY_MB} MB | {'' if kept else 'missed'} |")
    if paint is None:
        lines.append("| first paint | not measured: no chromium | 1.0 s | |")
    print("\n" + "\n".join(lines))
    if shape == Shape():
        write_page(
            lines, [f"| {name} | {median * 1000:.1f} ms | {p95 * 1000:.1f} ms |" for name, median, p95 in calls], trials, size_mb, load
        )
    return 1 if failed or not kept else 0


def write_page(found: list[str], calls: list[str], trials: int, size_mb: float, load: float) -> None:
    """docs/results/dashboard.md; the load is the machine's before the benchmark began."""
    commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    changed = subprocess.run(["git", "status", "--porcelain", "swerl", "benchmarks"], cwd=ROOT, capture_output=True, text=True).stdout
    gib = psutil.virtual_memory().total / 2**30
    text = [
        "# The dashboard on a large run",
        "",
        f"`make bench BENCH=dashboard`, commit {commit}{' with changes' if changed else ''}, {time.strftime('%Y-%m-%d', time.gmtime())},"
        f" {os.cpu_count()} cores, {gib:.0f} GiB. Load of the machine before: {load:.1f}.",
        "",
        f"A made run of 200 steps, {trials:,} training trials, {size_mb:.0f} MB of events, journal and metrics; the server is a process of"
        " its own, asked over HTTP. First paint is Chromium's first contentful paint, without a window, median of three.",
        "",
        *found,
        "",
        f"Every API call, {REPEATS} times each:",
        "",
        "| call | median | p95 |",
        "|---|---|---|",
        *calls,
    ]
    (ROOT / "docs" / "results" / "dashboard.md").write_text("\n".join(text) + "\n")


def main() -> int:
    steps = next((int(word.partition("=")[2]) for word in sys.argv[1:] if word.startswith("--steps=")), 200)
    return asyncio.run(measure(Shape(steps=steps)))


if __name__ == "__main__":
    sys.exit(main())
