"""Sandboxes made ready while their trials wait: the queue of a step is its schedule, and its next ``size`` trials have a sandbox each.

A trial that finds all the runner's places taken gets one of the pool's, starts its own sandbox there, and keeps it until its turn, when it
may still be starting; nobody else's trial ever gets it. Before it is used it must run a command; one that does not is thrown away and the
trial starts as it would have without. ``counts``: prepared, used, dead (did not answer any more), failed (did not start), discarded (its
trial was ended or set aside).
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from harbor.environments.base import BaseEnvironment
from harbor.trial.trial import Trial

from swerl.record.events import EventLog

ALIVE_S = 10


@dataclass(frozen=True, slots=True)
class Ready:
    """A started sandbox, made for the trial of that name, and the gateway's address that it knows."""

    trial_name: str
    environment: BaseEnvironment
    public_url: str | None

    def give_to(self, trial: Trial) -> None:
        """The trial uses it instead of its own, which was never started."""
        environment: Any = self.environment
        environment.logger, environment.context_id = trial.logger, trial.id

        async def started(force_build: bool) -> None:
            """It is."""

        environment.start = started
        trial.agent_environment = environment


class Ahead[T]:
    """Work for a trial that waits for its turn, begun once the pool has a place for it. It holds that place until the turn comes: then the
    sandbox counts among those that run."""

    def __init__(self, warm: Warm, work: Callable[[], Coroutine[Any, Any, T]]):
        self._places, self._work = warm.places, work
        self._has_place = False
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> T:
        await self._places.acquire()
        self._has_place = True
        return await self._work()

    async def taken(self) -> T | None:
        """The trial has its turn. What was begun is finished first; None when nothing was."""
        if not self._has_place:
            return await self.give_up()
        self._leave()
        return await asyncio.shield(self._task)

    async def give_up(self) -> T | None:
        """End it. What it had finished by then is the caller's to throw away."""
        self._task.cancel()
        (found,) = await asyncio.gather(self._task, return_exceptions=True)
        self._leave()
        if isinstance(found, Exception):
            raise found
        return None if isinstance(found, BaseException) else found  # the latter: it was cancelled

    def _leave(self) -> None:
        if self._has_place:
            self._has_place = False
            self._places.release()


class Warm:
    """The pool's places and books. ``size`` 0: there is none."""

    def __init__(self, size: int, events: EventLog):
        self.places = asyncio.Semaphore(size)
        self.size, self._events = size, events
        self.counts: Counter[str] = Counter()
        self.holding: dict[str, Ready] = {}

    def stats(self) -> dict[str, int]:
        return {**self.counts, "ready": len(self.holding)}

    def prepared(self, ready: Ready, took_s: float) -> None:
        self.holding[ready.trial_name] = ready
        self._count("prepared", ready.trial_name, took_s=round(took_s, 3))

    def failed(self, trial_name: str, error: BaseException) -> None:
        self._count("failed", trial_name, error=f"{type(error).__name__}: {error}"[:500])

    async def alive(self, ready: Ready, public_url: str | None) -> bool:
        """Whether it may be used now: it answers, and the gateway is where it was. One that may not is gone when this returns."""
        del self.holding[ready.trial_name]
        began = time.monotonic()
        try:
            done = await ready.environment.exec("true", timeout_sec=ALIVE_S)
            why = None if done.return_code == 0 else f"exit code {done.return_code}"
        except Exception as error:  # whatever is wrong with it, another one is started
            why = f"{type(error).__name__}: {error}"[:500]
        if why is None and ready.public_url != public_url:
            why = "the gateway has moved"
        self._count("used" if why is None else "dead", ready.trial_name, error=why, took_s=round(time.monotonic() - began, 3))
        if why is not None:
            await ready.environment.stop(delete=True)
        return why is None

    async def discard(self, ready: Ready) -> None:
        del self.holding[ready.trial_name]
        self._count("discarded", ready.trial_name)
        await ready.environment.stop(delete=True)

    def _count(self, what: str, trial_name: str, **fields: Any) -> None:
        self.counts[what] += 1
        self._events.emit(f"sandbox.{what}", trial=trial_name, **fields)
