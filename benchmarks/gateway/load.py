"""Clients: one after the other for latency, many at once for throughput. Every request is a new turn; nothing is answered from memory."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson
from bodies import exchange, text
from processes import OurGateway, Process

Request = tuple[str, bytes, dict[str, str]]
Stream = AsyncIterator[Request]


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds per request, and processor seconds of the measured process per request."""

    p50_s: float
    p99_s: float
    per_s: float
    cpu_s: float
    count: int


async def post(client: aiohttp.ClientSession, request: Request) -> tuple[float, bytes]:
    url, body, headers = request
    began = time.perf_counter()
    async with client.post(url, data=body, headers=headers) as response:
        data = await response.read()
        took = time.perf_counter() - began
        assert response.status == 200, data[:500]
    return took, data


def connections() -> aiohttp.ClientSession:
    timeout = aiohttp.ClientTimeout(total=None)
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout, headers={"Content-Type": "application/json"})


async def measure(process: Process, clients: int, count: int, conversation: Callable[[int], Any]) -> Measured:
    """``conversation(i)`` is a generator of requests for client i, which is sent each answer. ``count`` requests in all, after a warm-up
    of a tenth, or of as many as the generator's first value says."""
    took: list[float] = []
    left = count

    async with connections() as client:

        async def run(i: int, warm_up: int) -> Any:
            talk = conversation(i)
            request = next(talk)
            if isinstance(request, int):
                warm_up, request = request, next(talk)
            for _ in range(warm_up):
                request = talk.send((await post(client, request))[1])
            return talk, request

        async def measured(talk: Any, request: Request) -> None:
            nonlocal left
            while left > 0:
                left -= 1
                seconds, data = await post(client, request)
                took.append(seconds)
                request = talk.send(data)

        ready = await asyncio.gather(*(run(i, max(1, count // clients // 10)) for i in range(clients)))
        cpu, began = process.cpu_s, time.perf_counter()
        await asyncio.gather(*(measured(*r) for r in ready))
        wall = time.perf_counter() - began
        cpu = process.cpu_s - cpu
    took.sort()
    return Measured(statistics.median(took), took[int(len(took) * 0.99)], count / wall, cpu / count, count)


def repeated(url: str, body: Any, headers: dict[str, str]) -> Callable[[int], Any]:
    """The same request again and again: enough for a proxy that keeps nothing."""

    def talk(i: int) -> Any:
        data = orjson.dumps(body)
        while True:
            yield (url, data, headers)

    return talk


def first_requests(gateway: OurGateway, keys: list[str], make: Callable[[int], Any]) -> Callable[[int], Any]:
    """Each request opens a session of its own with a body of its own."""
    fresh = iter(enumerate(keys))

    def talk(i: int) -> Any:
        for seed, key in fresh:
            yield (f"{gateway.url}/t/{key}/v1/chat/completions", orjson.dumps(make(seed)), {})
        raise AssertionError("too few sessions for this measurement")

    return talk


def agents(
    gateway: OurGateway, keys: list[str], clients: int, make: Callable[[int], Any], result_bytes: int, prompts: list[int]
) -> Callable[[int], Any]:
    """Client i runs an agent in each of its share of ``keys``, one turn here, one there, so that no history grows far beyond the size that
    is measured. An agent answers each tool call with ``result_bytes`` of output and asks for the next turn; the sessions' first requests
    are the warm-up. ``prompts`` receives the tokens of each prompt after them."""

    def talk(i: int) -> Any:
        own = [Agent(f"{gateway.url}/t/{key}/v1/chat/completions", make(j)) for j, key in enumerate(keys) if j % clients == i]
        yield len(own)
        for turn in itertools.count():
            for j, agent in enumerate(own):
                used = agent.heard((yield (agent.url, orjson.dumps(agent.body), {})), text(1000 * i + 100 * j + turn, result_bytes))
                if turn:
                    prompts.append(used)

    return talk


@dataclass(slots=True)
class Agent:
    url: str
    body: Any

    def heard(self, answer: bytes, result: str) -> int:
        """Continue the conversation; returns the tokens of the prompt that was answered."""
        said = orjson.loads(answer)
        call = said["choices"][0]["message"]["tool_calls"][0]
        messages = exchange(call["id"], result)
        messages[0]["tool_calls"][0]["function"]["arguments"] = call["function"]["arguments"]
        self.body["messages"] += messages
        return said["usage"]["prompt_tokens"]


def tokens(url: str, count: int) -> Callable[[int], Any]:
    """Direct requests to the token engine with a prompt of ``count`` tokens."""
    rest = {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "max_tokens": 1000}

    def talk(i: int) -> Any:
        body = {"epoch": 1, "session": f"direct-{i}", "prompt_ids": [1000 + j % 9000 for j in range(count)], "sampling": rest}
        n = 0
        while True:
            n += 1
            yield (f"{url}/generate", orjson.dumps({**body, "request_id": f"direct-{i}-{n}"}), {"Authorization": "Bearer bench"})

    return talk
