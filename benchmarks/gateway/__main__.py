"""What the gateway adds to a request, beside LiteLLM's proxy in the same run on the same machine (--write puts it into docs/results).

Everything is on: session tree, templates, tokenising, tool parser, journal with fsync. Upstream is the scripted token engine for the
gateway and a scripted chat server for LiteLLM; the cost of a direct call is shown for both. Rounds are interleaved. "cpu" is processor
time of the measured process per request, which hardly depends on what else the machine does. ``--quick`` takes a tenth of the time.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import platform
import resource
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import uvloop
from bodies import large, small, write_policy
from load import Measured, agents, connections, first_requests, measure, post, repeated, tokens
from processes import LITELLM, LiteLLM, OurGateway, litellm_environment

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 3
RESULT_BYTES = 400


@dataclass(frozen=True, slots=True)
class Row:
    body: str
    what: str
    clients: int
    rounds: list[Measured]

    def median(self, name: str) -> float:
        return statistics.median(getattr(r, name) for r in self.rounds)


def line(row: Row, direct: Row | None) -> str:
    added = "" if direct is None else f"{1000 * (row.median('p50_s') - direct.median('p50_s')):.2f}"
    low, high = min(r.p50_s for r in row.rounds), max(r.p50_s for r in row.rounds)
    cells = [row.body, row.what, str(row.clients), f"{1000 * row.median('p50_s'):.2f} ({1000 * low:.2f} to {1000 * high:.2f})"]
    cells += [f"{1000 * row.median('p99_s'):.2f}", added, f"{row.median('per_s'):.0f}", f"{1000 * row.median('cpu_s'):.2f}"]
    return "| " + " | ".join(cells) + " |"


HEAD = [
    "| body | through | clients | p50 ms (rounds) | p99 ms | p50 added ms | requests/s | cpu ms |",
    "|---|---|---|---|---|---|---|---|",
]


BODIES = (("1 kB, 1 tool", small, 330), ("300 kB, 24 tools", large, 75_000))
Talk = Callable[[int], Any]


async def plans(ours: OurGateway, peer: LiteLLM, make: Callable[[int], Any], tokens_: int, clients: int, count: int, seed: int) -> Any:
    """What one round measures: name, measured process, requests, conversation."""
    path, request = "/v1/chat/completions", make(0)
    yield "direct, tokens", ours.engine, count, tokens(ours.engine_url, tokens_)
    yield "direct, chat", peer.upstream, count, repeated(peer.upstream_url + path, request, {})
    yield "LiteLLM", peer.proxy, count // 4, repeated(peer.url + path, request, peer.headers)
    firsts = count if make is small else count // 8
    keys = await ours.keys(2 * firsts + 4 * clients)
    yield "swerl, first request", ours.gateway, firsts, first_requests(ours, keys, partial(shifted, make, seed))
    if make is large:
        keys = await ours.keys(clients)
        yield "swerl, next turn", ours.gateway, count, agents(ours, keys, partial(shifted, make, seed + 50_000), RESULT_BYTES)


def shifted(make: Callable[[int], Any], by: int, seed: int) -> Any:
    return make(by + seed)


async def latency_and_throughput(policy: Path, work: Path, scale: float) -> tuple[list[str], dict[str, float]]:
    lines, figures = list(HEAD), {}
    ours = OurGateway(policy, work / "ours")
    peer = LiteLLM(work / "peer", litellm_environment(ROOT / "build" / "peers" / "litellm"))
    try:
        await ours.start()
        await peer.start()
        for (body, make, tokens_), clients in itertools.product(BODIES, (1, 32)):
            count = int((400 if clients == 1 else 960) * scale)
            found: dict[str, list[Measured]] = {}
            for round_ in range(ROUNDS):
                async for name, process, requests, talk in plans(ours, peer, make, tokens_, clients, count, 100_000 * round_ + clients * 7):
                    found.setdefault(name, []).append(await measure(process, clients, max(2 * clients, requests), talk))
            rows = {name: Row(body, name, clients, rounds) for name, rounds in found.items()}
            for name, row in rows.items():
                direct = None if name.startswith("direct") else rows["direct, chat" if name == "LiteLLM" else "direct, tokens"]
                lines.append(line(row, direct))
                print(lines[-1], flush=True)
                figures[f"{body}/{name}/{clients}/added"] = row.median("p50_s") - (direct.median("p50_s") if direct else 0)
                figures[f"{body}/{name}/{clients}/cpu"] = row.median("cpu_s")
        memory = f"memory: gateway {ours.gateway.memory_mb:.0f} MB, LiteLLM {peer.proxy.memory_mb:.0f} MB"
        return [*lines, "", memory], figures
    finally:
        ours.stop()
        peer.stop()


async def queue(policy: Path, work: Path, sizes: list[int]) -> list[str]:
    """Requests that wait for a paused engine, and their end."""
    lines = [
        "| requests waiting | accepted in s | memory kB for each | answered after resume in s | answered |",
        "|---|---|---|---|---|",
    ]
    ours = OurGateway(policy, work / "queue")
    try:
        await ours.start()
        for size in sizes:
            keys = await ours.keys(size)
            before = ours.gateway.memory_mb
            await ours.admin("POST", "/pause", {"reason": "bench", "epoch": 1})
            talk = first_requests(ours, keys, small)
            async with connections() as client:
                began = time.perf_counter()
                asked = [asyncio.create_task(post(client, next(talk(i)))) for i in range(size)]
                while (await ours.admin("GET", "/stats"))["waiting"] < size:
                    await asyncio.sleep(0.1)
                accepted = time.perf_counter() - began
                used = ours.gateway.memory_mb - before
                began = time.perf_counter()
                await ours.admin("POST", "/resume", {"version": 1, "epoch": 1})
                answered = len(await asyncio.gather(*asked))
                took = time.perf_counter() - began
            lines.append(f"| {size} | {accepted:.1f} | {1000 * used / size:.0f} | {took:.1f} | {answered} |")
            print(lines[-1], flush=True)
    finally:
        ours.stop()
    return lines


async def streams(policy: Path, work: Path, count: int) -> list[str]:
    """Many streams at once, each read to its end."""
    ours = OurGateway(policy, work / "streams")
    try:
        await ours.start()
        keys = await ours.keys(count)
        talk = first_requests(ours, keys, lambda i: {**small(i), "stream": True})
        async with connections() as client:
            began = time.perf_counter()
            answers = await asyncio.gather(*(post(client, next(talk(i))) for i in range(count)))
            took = time.perf_counter() - began
        whole = sum(data.rstrip().endswith(b"[DONE]") and data.count(b'"finish_reason":"tool_calls"') == 1 for _, data in answers)
        return [f"{count} streams at once: {whole} whole, in {took:.1f} s"]
    finally:
        ours.stop()


async def restart(policy: Path, work: Path) -> list[str]:
    """From the start of the process to the first answer, with sessions on disk, and to the parsers."""
    listening, ready = [], []
    for i in range(3):
        began = time.perf_counter()
        ours = OurGateway(policy, work / "restart")
        try:
            await ours.gateway.until(ours._announced)
            listening.append(time.perf_counter() - began)
            (work / "restart" / "events.jsonl").write_bytes(b"") if i == 0 else None
            await ours.gateway.until(ours._parsers_ready)
            ready.append(time.perf_counter() - began)
        finally:
            ours.gateway.child.kill()
            ours.stop()
            (work / "restart" / "events.jsonl").unlink()
    return [f"start of the process to serving: {statistics.median(listening):.2f} s; to parsers loaded: {statistics.median(ready):.1f} s"]


def verdict(figures: dict[str, float]) -> list[str]:
    lines = ["| promise | measured |", "|---|---|"]
    for body, name, limit in (("1 kB, 1 tool", "swerl, first request", 1.0), ("300 kB, 24 tools", "swerl, next turn", 3.0)):
        ours, theirs = figures[f"{body}/{name}/1/added"], figures[f"{body}/LiteLLM/1/added"]
        cpu = figures[f"{body}/LiteLLM/32/cpu"] / figures[f"{body}/{name}/32/cpu"]
        lines.append(f"| {body}: added p50 at most {limit:.0f} ms | {1000 * ours:.2f} ms |")
        lines.append(f"| {body}: LiteLLM adds at least 10 times as much | {theirs / ours:.1f} times |")
        lines.append(f"| {body}: at least 10 times LiteLLM's requests per second of a core, 32 clients | {cpu:.1f} times |")
    return lines


async def main(arguments: list[str]) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    this = asyncio.current_task()
    assert this is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)  # so that the processes it started end with it
    quick = "--quick" in arguments
    policy = write_policy(ROOT / "build" / "bench-policy")
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="swerl-bench-", dir=ROOT / "build") as name:
        work = Path(name)
        table, figures = await latency_and_throughput(policy, work, 0.25 if quick else 1.0)
        waiting = await queue(policy, work, [500, 1000] if quick else [4000, 8000, 16000])
        rest = [*await streams(policy, work, 200 if quick else 1000), *await restart(policy, work)]
    command = f"make bench BENCH=gateway ARGS='{' '.join(arguments)}'" if arguments else "make bench BENCH=gateway"
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load average {load:.1f} at the start; peer {LITELLM}"
    report = [machine, "", *verdict(figures), "", *table, "", *waiting, "", *(f"- {entry}" for entry in rest)]
    print("\n" + "\n".join(report))
    if "--write" in arguments:
        page = (ROOT / "docs" / "results" / "gateway.md").read_text() if (ROOT / "docs" / "results" / "gateway.md").exists() else ""
        head = page.partition("<!-- measured -->")[0] or "# The gateway, measured\n\n"
        (ROOT / "docs" / "results" / "gateway.md").write_text(f"{head}<!-- measured -->\n`{command}`\n\n" + "\n".join(report) + "\n")


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1:]))
