"""Whose clock? An agent's time runs only while the gateway is there and its engine is not keeping it waiting.

`GatewayWatch` notices when the gateway as a whole is away (killed, restarting); the gateway itself says, per session, how long the engine
kept it (``hold_s``). `within` runs a coroutine against a deadline that moves by both. Harbor's own deadline is set far beyond.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import aiohttp

PROBE_S = 1.0


class OutOfTime(asyncio.TimeoutError):
    """The coroutine used up its time and has been cancelled. Harbor takes any TimeoutError as a phase that took too long."""


class GatewayWatch:
    """Probes ``url()`` + /health/liveliness once a second while somebody cares; `away_s` is the time it did not answer since an instant."""

    def __init__(self, url: Callable[[], str]):
        self._url = url
        self._spans: list[tuple[float, float]] = []
        self._down_since: float | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._probe(), name="gateway-watch")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @property
    def down(self) -> bool:
        return self._down_since is not None

    def away_s(self, since: float) -> float:
        """Seconds without a gateway since the monotonic instant ``since``, the present absence included."""
        spans = [*self._spans, (self._down_since, time.monotonic())] if self._down_since is not None else self._spans
        return sum(max(0.0, end - max(start, since)) for start, end in spans)

    def absence(self, since: float, until: float) -> tuple[float, float]:
        """Seconds without a gateway between two monotonic instants, and when the last such absence ended (infinity: it has not)."""
        spans = [(start, end, end) for start, end in self._spans]
        if self._down_since is not None:
            spans.append((self._down_since, time.monotonic(), math.inf))
        within = [(min(end, until) - max(start, since), back) for start, end, back in spans if start < until and end > since]
        return sum(seconds for seconds, _ in within), max((back for _, back in within), default=since)

    async def _probe(self) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5.0)) as http:
            last_good = time.monotonic()
            while True:
                if await self._answers(http):
                    if self._down_since is not None:
                        self._spans.append((self._down_since, time.monotonic()))
                        self._down_since = None
                    last_good = time.monotonic()
                elif self._down_since is None:
                    self._down_since = last_good
                await asyncio.sleep(PROBE_S)

    async def _answers(self, http: aiohttp.ClientSession) -> bool:
        try:
            async with http.get(self._url() + "/health/liveliness") as answer:
                return answer.status < 500
        except (aiohttp.ClientError, OSError, RuntimeError):  # RuntimeError: it has not announced itself yet
            return False


async def within(work: Coroutine[Any, Any, None], limit_s: float | None, held_s: Callable[[], Awaitable[float]]) -> None:
    """Run ``work`` for at most ``limit_s`` seconds of its own; ``held_s`` says how many of those that passed were not its own.

    Raises OutOfTime after cancelling it; whatever ``work`` raises otherwise. Cancelling this cancels ``work`` first.
    """
    task = asyncio.ensure_future(work)
    started = time.monotonic()
    deadline = None if limit_s is None else started + limit_s
    try:
        while True:
            await asyncio.wait({task}, timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
            if task.done():
                return task.result()
            assert deadline is not None and limit_s is not None
            moved = started + limit_s + await held_s()
            if moved <= max(deadline, time.monotonic()) + 0.05:  # it had no more than it was due
                break
            deadline = moved
    finally:
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    raise OutOfTime(f"{limit_s:.0f} s of the agent's own time are over")
