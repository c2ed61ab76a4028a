"""Whose clock? An agent's time runs only while the gateway is there and its engine is not keeping it waiting.

`GatewayWatch` notices when the gateway as a whole is away (killed, restarting); the gateway itself says, per session, how long the engine
kept it (``hold_s``). `within` runs a coroutine against a deadline that moves by both. Harbor's own deadline is set far beyond.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import aiohttp

PROBE_S = 1.0


class OutOfTime(asyncio.TimeoutError):
    """The coroutine used up its time and has been cancelled. Harbor takes any TimeoutError as a phase that took too long."""


@dataclass(frozen=True, slots=True)
class Absence:
    """Monotonic instants between which the gateway was away at most: probes answered at ``start`` and ``end``. At ``missed`` the last one
    without an answer began: whoever had an answer after that had it from a gateway that was back."""

    start: float
    end: float
    missed: float

    @property
    def seconds(self) -> float:
        return self.end - self.start


class GatewayWatch:
    """Probes ``url()`` + /health/liveliness once a second while somebody cares; `away_s` is the time it did not answer since an instant."""

    def __init__(self, url: Callable[[], str]):
        self._url = url
        self._spans: list[Absence] = []
        self._down_since: float | None = None
        self._missed = 0.0  # when the last probe without an answer began
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
        return sum(max(0.0, span.end - max(span.start, since)) for span in self._all())

    def absences(self, since: float, until: float) -> list[Absence]:
        """Those that overlap the time between two monotonic instants, cut to it; the present one is taken to last until now."""
        found = [span for span in self._all() if span.start < until and span.end > since]
        return [Absence(max(span.start, since), min(span.end, until), span.missed) for span in found]

    def _all(self) -> list[Absence]:
        now = [] if self._down_since is None else [Absence(self._down_since, time.monotonic(), self._missed)]
        return [*self._spans, *now]

    async def _probe(self) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5.0)) as http:
            last_good = time.monotonic()
            while True:
                began = time.monotonic()
                if await self._answers(http):
                    if self._down_since is not None:
                        self._spans.append(Absence(self._down_since, time.monotonic(), self._missed))
                        self._down_since = None
                    last_good = time.monotonic()
                else:
                    self._down_since, self._missed = self._down_since or last_good, began
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
