"""Who may be with the engine: the turns that are let in, and in which order the others follow.

At most ``max_in_flight`` turns are inside, and with ``kv_tokens`` (what the engine's KV cache holds) no more tokens of context than that;
a turn that is larger than all of it goes in alone. A turn keeps its place through a pause, so what was begun goes on before anything new.

Order among the first `LOOK` that wait: a session whose prefix is likely still in the cache before one whose prefix would have to be
computed again; then the session with fewest turns inside; then who came first. Nobody is passed over more than `PATIENCE` times: then it
is next, and nothing enters before it. Residence is an estimate: the sessions used last, as far as ``kv_tokens`` reaches.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import islice

LOOK, PATIENCE = 64, 16


@dataclass(slots=True, eq=False)
class _Waiter:
    session: str
    tokens: int
    admitted: asyncio.Future[None]
    passed_over: int = 0


class Admission:
    """``kv_tokens`` 0: only the number of turns is bounded."""

    def __init__(self, max_in_flight: int, kv_tokens: int = 0):
        self.max_in_flight, self.kv_tokens = max_in_flight, kv_tokens
        self.inside = self.inside_tokens = 0
        self._inside_of: Counter[str] = Counter()
        self._waiting: deque[_Waiter] = deque()
        self._resident: OrderedDict[str, int] = OrderedDict()
        self._resident_tokens = 0

    def bound(self, kv_tokens: int) -> None:
        """From now on; what is inside stays inside."""
        self.kv_tokens = kv_tokens
        self._let_in()

    def must_wait(self, tokens: int) -> bool:
        return bool(self._waiting) or not self._fits(tokens)

    @asynccontextmanager
    async def place(self, session: str, tokens: int) -> AsyncIterator[None]:
        """Hold a place for a turn whose context has ``tokens`` tokens; waits for one first."""
        if self.must_wait(tokens):
            await self._wait(session, tokens)
        else:
            self._enter(session, tokens)
        try:
            yield
        finally:
            self._leave(session, tokens)

    async def _wait(self, session: str, tokens: int) -> None:
        waiter = _Waiter(session, tokens, asyncio.get_running_loop().create_future())
        self._waiting.append(waiter)
        try:
            await waiter.admitted
        except asyncio.CancelledError:
            if waiter.admitted.done() and not waiter.admitted.cancelled():  # let in, and cancelled before it knew
                self._leave(session, tokens)
            else:
                with suppress(ValueError):
                    self._waiting.remove(waiter)
                self._let_in()
            raise

    def _fits(self, tokens: int) -> bool:
        if self.inside >= self.max_in_flight:
            return False
        return not self.kv_tokens or not self.inside or self.inside_tokens + tokens <= self.kv_tokens

    def _let_in(self) -> None:
        while self._waiting and (at := self._next()) is not None:
            for earlier in islice(self._waiting, at):
                earlier.passed_over += 1
            waiter = self._waiting[at]
            del self._waiting[at]
            if not waiter.admitted.cancelled():
                self._enter(waiter.session, waiter.tokens)
                waiter.admitted.set_result(None)

    def _next(self) -> int | None:
        """Which of those that wait is next; None when it does not fit now."""
        if self.inside >= self.max_in_flight:
            return None
        first = self._waiting[0]
        if first.passed_over >= PATIENCE:
            return 0 if self._fits(first.tokens) else None
        fitting = [(self._order(w), at) for at, w in enumerate(islice(self._waiting, LOOK)) if self._fits(w.tokens)]
        return min(fitting)[1] if fitting else None

    def _order(self, waiter: _Waiter) -> tuple[bool, int]:
        return bool(self.kv_tokens) and waiter.session not in self._resident, self._inside_of[waiter.session]

    def _enter(self, session: str, tokens: int) -> None:
        self.inside += 1
        self.inside_tokens += tokens
        self._inside_of[session] += 1
        if not self.kv_tokens:
            return
        self._resident_tokens += tokens - self._resident.pop(session, 0)
        self._resident[session] = tokens
        while self._resident_tokens > self.kv_tokens and len(self._resident) > 1:
            self._resident_tokens -= self._resident.popitem(last=False)[1]

    def _leave(self, session: str, tokens: int) -> None:
        self.inside -= 1
        self.inside_tokens -= tokens
        self._inside_of[session] -= 1
        if not self._inside_of[session]:
            del self._inside_of[session]
        self._let_in()
