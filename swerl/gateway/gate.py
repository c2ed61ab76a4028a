"""The one way to the engine: it knows which engine is current, whether it may be asked now, and what is being asked.

Protocol with the trainer: `register` names an engine of an epoch (one start of the trainer); `pause` closes the gate, aborts what is in
flight and returns when each piece is back; `resume` opens it for a version of the weights. What belongs to an older epoch is refused. The
state is on disk, so a restarted gateway goes on with the same engine, paused if it was paused.

Waiting at the gate is hold time, and so is what a request that comes back without its engine has spent there. An engine that cannot be
reached is asked again after a growing delay, or at once when it is registered anew.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from swerl.gateway.admission import Admission
from swerl.gateway.engines.base import Engine, EngineSpec
from swerl.gateway.errors import ApiError, EngineAwayError
from swerl.record.rundir import read_json, write_json

_FIRST_DELAY_S, _LAST_DELAY_S = 0.1, 2.0
_ABORT_AGAIN_S = 0.25


class StaleEpochError(Exception):
    """The caller belongs to a start of the trainer that is over."""


class EngineGate:
    def __init__(self, connect: Callable[[EngineSpec], Engine], state_path: Path, max_hold_s: float, admission: Admission):
        self._connect, self._state_path, self._max_hold_s = connect, state_path, max_hold_s
        self._admission = admission
        self.engine: Engine | None = None
        self.spec: EngineSpec | None = None
        self.paused, self.reason, self.version = False, "", -1
        self._open = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._flying: dict[str, Engine] = {}
        self._delay_s, self._retry_at = _FIRST_DELAY_S, 0.0
        self.waiting = 0
        if (state := read_json(state_path)) is not None:
            self.spec = EngineSpec(**state["engine"])
            self.engine = connect(self.spec)
            self.paused, self.version, self.reason = state["paused"], state["version"], state["reason"]
            self._set_open()

    async def register(self, spec: EngineSpec) -> None:
        """Raises StaleEpochError for an older epoch. The same engine registered again changes nothing."""
        self._refuse_older(spec.epoch)
        if self.spec != spec:
            old, self.spec, self.engine = self.engine, spec, self._connect(spec)
            if old is not None:
                await old.close()  # requests in flight there come back as away and are asked of the new engine
            self.paused, self.reason = False, ""
        self.version = spec.version
        self._retry_at, self._delay_s = 0.0, _FIRST_DELAY_S
        self._save()
        self._set_open()

    async def pause(self, reason: str, epoch: int) -> int:
        """Close the gate; returns the number of aborted pieces once every piece in flight has come back."""
        self._refuse_older(epoch)
        self.paused, self.reason = True, reason
        self._save()
        self._set_open()
        aborted: set[str] = set()
        while self._flying and self.paused:
            # again and again: a request on its way may reach the engine after the order to abort it
            aborted.update(self._flying)
            await self.abort(list(self._flying))
            with suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), _ABORT_AGAIN_S)
        return len(aborted)

    def resume(self, version: int, epoch: int) -> None:
        self._refuse_older(epoch)
        self.paused, self.reason, self.version = False, "", version
        self._retry_at, self._delay_s = 0.0, _FIRST_DELAY_S
        self._save()
        self._set_open()

    async def abort(self, request_ids: list[str]) -> None:
        """Ask for the end of these requests; they come back with finish "aborted". One that is away by now has ended anyway."""
        by_engine: dict[Engine, list[str]] = {}
        for request_id in request_ids:
            if (engine := self._flying.get(request_id)) is not None:
                by_engine.setdefault(engine, []).append(request_id)
        for engine, ids in by_engine.items():
            try:
                await engine.abort(ids)
            except EngineAwayError:
                self._lost(engine)

    @asynccontextmanager
    async def slot(self, session: str, tokens: int, held: Hold) -> AsyncIterator[None]:
        """A place among the turns that may be with the engine at a time (`Admission`); waiting for it is hold time."""
        waits = self._admission.must_wait(tokens)
        if waits:
            self.waiting += 1
            held.begin()
        try:
            async with self._admission.place(session, tokens):
                if waits:
                    waits = False
                    held.end()
                    self.waiting -= 1
                yield
        finally:
            if waits:
                held.end()
                self.waiting -= 1

    @asynccontextmanager
    async def passage(self, request_id: str, held: Hold) -> AsyncIterator[Engine]:
        """An engine to ask, when there is one. An EngineAwayError raised inside is noted and raised on. Raises ApiError 503 when the wait
        is longer than ``max_hold_s``."""
        engine = await self._wait(held)
        self._flying[request_id] = engine
        self._idle.clear()
        try:
            yield engine
            self._delay_s = _FIRST_DELAY_S
        except EngineAwayError:
            self._lost(engine)
            raise
        finally:
            del self._flying[request_id]
            if not self._flying:
                self._idle.set()

    async def _wait(self, held: Hold) -> Engine:
        if (engine := self._now()) is not None:
            return engine
        began = time.monotonic()
        self.waiting += 1
        held.begin()
        try:
            while (engine := self._now()) is None:
                left_s = began + self._max_hold_s - time.monotonic()
                if left_s <= 0:
                    raise ApiError(503, "engine_away", f"The engine has been away for {self._max_hold_s:.0f} s.", retry=True)
                if self._open.is_set():
                    await asyncio.sleep(min(max(0.0, self._retry_at - time.monotonic()), left_s))
                else:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._open.wait(), left_s)
            return engine
        finally:
            held.end()
            self.waiting -= 1

    @property
    def answers(self) -> bool:
        """Whether there is an engine that may be asked and was not away when it was asked last."""
        return self._open.is_set() and self._delay_s == _FIRST_DELAY_S

    def _now(self) -> Engine | None:
        return self.engine if self._open.is_set() and time.monotonic() >= self._retry_at else None

    def _lost(self, engine: Engine) -> None:
        if engine is self.engine:
            self._retry_at = time.monotonic() + self._delay_s
            self._delay_s = min(2 * self._delay_s, _LAST_DELAY_S)

    def _refuse_older(self, epoch: int) -> None:
        if self.spec is not None and epoch < self.spec.epoch:
            raise StaleEpochError(f"epoch {epoch} is over; the engine is of epoch {self.spec.epoch}")

    def _set_open(self) -> None:
        if self.engine is not None and not self.paused:
            self._open.set()
        else:
            self._open.clear()

    def _save(self) -> None:
        if self.spec is not None:
            state = {"engine": self.spec.as_dict(), "paused": self.paused, "reason": self.reason, "version": self.version}
            write_json(self._state_path, state, mode=0o600)

    def stats(self) -> dict[str, Any]:
        return {
            "engine": None if self.spec is None else {"kind": self.spec.kind, "url": self.spec.url, "epoch": self.spec.epoch},
            "paused": self.paused,
            "reason": self.reason,
            "answers": self.answers,
            "version": self.version,
            "in_flight": len(self._flying),
            "waiting": self.waiting,
            "admitted": self._admission.inside,
            "admitted_tokens": self._admission.inside_tokens,
            "kv_cache_tokens": self._admission.kv_tokens,
        }


class Hold:
    """Seconds in which at least one request of a session waited for the engine."""

    def __init__(self, total_s: float = 0.0):
        self._total_s, self._waiting, self._since = total_s, 0, 0.0

    def begin(self) -> None:
        if self._waiting == 0:
            self._since = time.monotonic()
        self._waiting += 1

    def end(self) -> None:
        self._waiting -= 1
        if self._waiting == 0:
            self._total_s += time.monotonic() - self._since

    def give(self, began: float, total_s: float) -> None:
        """Take the time since ``began`` (monotonic), when the total was ``total_s``, for waiting too: what was sampled then is lost."""
        self._total_s += max(0.0, time.monotonic() - began - (self.total_s - total_s))

    @property
    def waiting(self) -> bool:
        return self._waiting > 0

    @property
    def total_s(self) -> float:
        return self._total_s + (time.monotonic() - self._since if self._waiting else 0.0)
