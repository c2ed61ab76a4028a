"""What the gateway adds to a request, beside LiteLLM's proxy in the same run on the same machine. Writes docs/results/gateway.md and .json.

Everything is on: session tree, templates, tokenising, tool parser, journal with fsync. Upstream is the scripted token engine for the
gateway and a scripted chat server for LiteLLM; the cost of a direct call is shown for both. Rounds are interleaved. "cpu" is processor
time of the measured process per request, which hardly depends on what else the machine does. ``--quick`` takes a tenth of the time
and writes nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import platform
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import psutil
import uvloop
from bodies import large, small, write_policy
from growth import EARLY, LATE, grown, verl_ms
from held import Waited, idle, queue, restart, streams
from load import Measured, agents, first_requests, measure, repeated, tokens
from processes import LITELLM, LiteLLM, OurGateway, litellm_environment

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 3
RESULT_BYTES = 400
TURNS = 8  # of an agent, while its next turns are measured
_MEASURED = "<!-- measured -->"


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


UPSTREAM = {"LiteLLM": "direct, chat", "swerl, first request": "direct, tokens", "swerl, next turn": "direct, its tokens"}
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
    keys = await ours.keys(max(clients, count // TURNS))
    prompts: list[int] = []
    talk = agents(ours, keys, clients, partial(shifted, make, seed + 50_000), RESULT_BYTES, prompts)
    yield "swerl, next turn", ours.gateway, count, talk
    yield "direct, its tokens", ours.engine, count, tokens(ours.engine_url, round(statistics.fmean(prompts)))


def shifted(make: Callable[[int], Any], by: int, seed: int) -> Any:
    return make(by + seed)


async def latency_and_throughput(policy: Path, work: Path, scale: float) -> tuple[list[str], dict[str, float]]:
    lines, figures = list(HEAD), {}
    environment = litellm_environment(ROOT / "build" / "peers" / "litellm")  # before anything is started that would have to be ended
    ours, peer = OurGateway(policy, work / "ours"), LiteLLM(work / "peer", environment)
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
                direct = rows.get(UPSTREAM.get(name, ""))
                lines.append(line(row, direct))
                print(lines[-1], flush=True)
                figures[f"{body}/{name}/{clients}/added"] = row.median("p50_s") - (direct.median("p50_s") if direct else 0)
                figures[f"{body}/{name}/{clients}/cpu"] = row.median("cpu_s")
        memory = f"memory: gateway {ours.gateway.memory_mb:.0f} MB, LiteLLM {peer.proxy.memory_mb:.0f} MB"
        return [*lines, "", memory], figures
    finally:
        ours.stop()
        peer.stop()


def promises(figures: dict[str, float], growth: dict[str, float], waiting: list[Waited], rest: dict[str, dict[str, float]]) -> list[str]:
    lines = ["| promise | measured |", "|---|---|"]
    for body, name, limit in (("1 kB, 1 tool", "swerl, next turn", 1.0), ("300 kB, 24 tools", "swerl, next turn", 3.0)):
        ours, theirs = figures[f"{body}/{name}/1/added"], figures[f"{body}/LiteLLM/1/added"]
        own_s, their_s = figures[f"{body}/{name}/32/cpu"], figures[f"{body}/LiteLLM/32/cpu"]
        lines.append(f"| {body}: added p50 at most {limit:.0f} ms | {1000 * ours:.2f} ms |")
        lines.append(f"| {body}: LiteLLM adds at least 10 times as much | {theirs / ours:.1f} times |")
        rates = f"{1 / own_s:.0f}/s and {1 / their_s:.0f}/s: {their_s / own_s:.1f} times"
        lines.append(f"| {body}: at least 10 times LiteLLM's requests per second of a core, 32 clients | {rates} |")
    late, early = growth["late_place_ms"], growth["early_place_ms"]
    lines.append(f"| tokenising at turn 100 within 1.5 times of turn 2 | {late:.2f} and {early:.2f} ms: {late / early:.2f} times |")
    most, least = waiting[-1], waiting[0]
    linear = (most.accepted_s / most.requests) / (least.accepted_s / least.requests)
    lines.append(f"| {most.requests} requests on a paused engine: all answered on resume | {most.answered} |")
    lines.append(f"| the same: linear (seconds for each against {least.requests} requests) | {linear:.2f} times |")
    lines.append(f"| the same: memory of each, session and connection | {most.kb_each:.0f} kB |")
    lines.append(f"| memory of an idle session at most 100 kB | {rest['idle']['kb_each']:.0f} kB |")
    lines.append(f"| {rest['streams']['streams']:.0f} streams at once without loss | {rest['streams']['whole']:.0f} whole |")
    lines.append(f"| ready within 10 s of a kill | {rest['restart']['serving_s']:.2f} s |")
    return lines


def growth_of(policy: Path) -> tuple[list[str], dict[str, float]]:
    early, late = grown(policy)
    verl_early, verl_late = verl_ms(policy)
    rows = [
        "| one agent, 24 tools | prompt tokens | body kB | reading the body ms | placing, rendering, tokenising ms | verl's builder ms |",
        "|---|---|---|---|---|---|",
    ]
    for turn, cost, theirs in ((EARLY, early, verl_early), (LATE, late, verl_late)):
        cells = f"{cost.prompt_tokens} | {cost.body_bytes / 1000:.0f} | {cost.read_ms:.2f} | {cost.place_ms:.2f} | {theirs:.1f}"
        rows.append(f"| turn {turn} | {cells} |")
    figures = {
        "early_read_ms": early.read_ms,
        "early_place_ms": early.place_ms,
        "late_read_ms": late.read_ms,
        "late_place_ms": late.place_ms,
    }
    return rows, {**figures, "verl_early_ms": verl_early, "verl_late_ms": verl_late}


async def main(arguments: list[str]) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    this = asyncio.current_task()
    assert this is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)  # so that the processes it started end with it
    quick = "--quick" in arguments
    policy = write_policy(ROOT / "build" / "bench-policy")
    load = os.getloadavg()[0]
    growing, growth = growth_of(policy)
    print("\n".join(growing), flush=True)
    with tempfile.TemporaryDirectory(prefix="swerl-bench-", dir=ROOT / "build") as name:
        work = Path(name)
        table, figures = await latency_and_throughput(policy, work, 0.25 if quick else 1.0)
        waiting = await queue(policy, work, [500, 1000] if quick else [4000, 8000, 16000])
        rest = {
            "streams": await streams(policy, work, 200 if quick else 1000),
            "idle": await idle(policy, work, 500 if quick else 4000),
            "restart": await restart(policy, work),
        }
    queued = [
        "| requests waiting | accepted in s | memory kB for each | answered after resume in s | answered |",
        "|---|---|---|---|---|",
        *(f"| {w.requests} | {w.accepted_s:.1f} | {w.kb_each:.0f} | {w.answered_s:.1f} | {w.answered} |" for w in waiting),
    ]
    say = [
        f"- {rest['streams']['streams']:.0f} streams at once: {rest['streams']['whole']:.0f} whole, in {rest['streams']['took_s']:.1f} s",
        f"- start of the process to serving: {rest['restart']['serving_s']:.2f} s; to parsers loaded: {rest['restart']['parsers_s']:.1f} s",
    ]
    command = f"make bench BENCH=gateway ARGS='{' '.join(arguments)}'" if arguments else "make bench BENCH=gateway"
    system = platform.freedesktop_os_release()["PRETTY_NAME"]
    where = {
        "command": command,
        "commit": subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip(),
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{os.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB, {system}",
        "load_at_start": round(load, 1),
        "peer": LITELLM,
    }
    told = f"`{command}` at {where['commit']}, {where['date']}, {where['machine']}, load {load:.1f} at the start; peer {LITELLM}"
    report = [told, "", *promises(figures, growth, waiting, rest), "", *table, "", *growing, "", *queued, "", *say]
    print("\n" + "\n".join(report))
    if quick:
        return  # too short to be kept
    page = ROOT / "docs" / "results" / "gateway.md"
    head = page.read_text().partition(_MEASURED)[0] if page.exists() else "# The gateway, measured\n\n"
    page.write_text(f"{head}{_MEASURED}\n" + "\n".join(report) + "\n")
    data = {**where, "figures": figures, "growth": growth, "waiting": [w.as_dict() for w in waiting], **rest}
    page.with_suffix(".json").write_bytes(orjson.dumps(data, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    print(f"\nwrote {page.relative_to(ROOT)} and {page.with_suffix('.json').name}")


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1:]))
