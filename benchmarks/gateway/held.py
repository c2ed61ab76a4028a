"""Requests that wait for a paused engine, many streams at once, idle sessions, and the start of the process."""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bodies import small
from load import connections, first_requests, post
from processes import OurGateway


@dataclass(frozen=True, slots=True)
class Waited:
    """``kb_each`` is what the gateway's memory grew by for each waiting request, its session included."""

    requests: int
    accepted_s: float
    kb_each: float
    answered_s: float
    answered: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


async def queue(policy: Path, work: Path, sizes: list[int]) -> list[Waited]:
    """Requests that wait for a paused engine, and their end."""
    found = []
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
            found.append(Waited(size, accepted, 1000 * used / size, took, answered))
            print(found[-1], flush=True)
    finally:
        ours.stop()
    return found


async def streams(policy: Path, work: Path, count: int) -> dict[str, float]:
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
        return {"streams": count, "whole": whole, "took_s": took}
    finally:
        ours.stop()


async def restart(policy: Path, work: Path) -> dict[str, float]:
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
    return {"serving_s": statistics.median(listening), "parsers_s": statistics.median(ready)}


async def idle(policy: Path, work: Path, count: int) -> dict[str, float]:
    """Memory of sessions that have had one turn and now wait for their agent's tool."""
    ours = OurGateway(policy, work / "idle")
    try:
        await ours.start()
        warm = await ours.keys(200)
        await _one_turn_each(ours, warm, 1_000_000)
        before = ours.gateway.memory_mb
        keys = await ours.keys(count)
        await _one_turn_each(ours, keys, 0)
        return {"sessions": count, "kb_each": 1000 * (ours.gateway.memory_mb - before) / count}
    finally:
        ours.stop()


async def _one_turn_each(ours: OurGateway, keys: list[str], seed: int) -> None:
    talk, at_once = first_requests(ours, keys, lambda i: small(seed + i)), asyncio.Semaphore(64)
    async with connections() as client:

        async def one(i: int) -> None:
            async with at_once:
                await post(client, next(talk(i)))

        await asyncio.gather(*(one(i) for i in range(len(keys))))
