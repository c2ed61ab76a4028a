"""The line from one process of a run to another's service, the gateway (its admin surface) or the runner: JSON over HTTP, through restarts.

Both write their address and token into ``services.json`` when they are up. A call that finds nobody, an old process's successor or half an
answer reads the file anew and tries again until ``patience_s`` is used up; all calls are idempotent by contract, so a repeated one does no
harm. Two errors come of it: `Away` when the patience ends, `Refused` when the service says no.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from swerl.errors import Problem, SwerlError

FIRST_RETRY_S, LAST_RETRY_S, GROWTH = 0.05, 2.0, 1.6
HELD_S = 1.0  # a call that was held for longer before it went was answered by a service that was there until then
_AWAY = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, ConnectionError, asyncio.TimeoutError)
_AWAY_STATUS = (401, 502, 503, 504)  # 401: the token of the process before the restart


class Away(SwerlError):
    """SWERL-R101: the service stayed away for longer than the caller may wait."""


class Refused(SwerlError):
    """The service answered and said no: SWERL-R102, or the problems that it names itself."""


class Service:
    """One of ``gateway`` and ``runner``. ``patience_s`` bounds how long it may stay away before a call gives up."""

    def __init__(self, services: Path, name: str, patience_s: float = 120.0):
        self.services, self.name, self.patience_s = services, name, patience_s
        self._session: aiohttp.ClientSession | None = None

    async def call(self, method: str, path: str, body: Any = None, timeout_s: float | None = 60.0) -> Any:
        """The JSON of the answer. Raises Away, or Refused.

        ``timeout_s=None`` waits for the answer as long as the connection lives (a trial takes as long as it takes).
        """
        away_since, delay_s = time.monotonic(), FIRST_RETRY_S
        while True:
            asked_at = time.monotonic()
            try:
                return await self._ask(method, path, body, timeout_s)
            except _NoAnswer as error:
                reason = str(error)
            if time.monotonic() - asked_at > HELD_S:
                away_since, delay_s = time.monotonic(), FIRST_RETRY_S
            if time.monotonic() - away_since > self.patience_s:
                raise Away(
                    Problem(
                        "SWERL-R101",
                        f"the {self.name} has been away for {self.patience_s:.0f} s ({reason})",
                        f"read logs/{self.name}.log of the run; the same command resumes",
                    )
                )
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * GROWTH, LAST_RETRY_S)

    async def _ask(self, method: str, path: str, body: Any, timeout_s: float | None) -> Any:
        """One request. Raises _NoAnswer when it may be asked again."""
        entry = self.entry()
        prefix = "admin_" if self.name == "gateway" else ""
        url, token = entry[f"{prefix}url"], entry[f"{prefix}token"]
        try:
            async with self._client().request(
                method,
                f"{url}{path}",
                data=None if body is None else orjson.dumps(body),
                headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
                timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=5),
            ) as answer:
                text = await answer.read()
        except _AWAY as error:
            raise _NoAnswer(f"{type(error).__name__}: {error}") from error
        if answer.status in _AWAY_STATUS:
            raise _NoAnswer(f"it answers {answer.status}")
        if answer.status < 400:
            try:
                return orjson.loads(text) if text else {}
            except orjson.JSONDecodeError as error:
                raise _NoAnswer(f"its answer is no JSON: {text[:100].decode(errors='replace')!r}") from error
        raise Refused(*(_problems(text) or [self._refusal(method, path, answer.status, text)]))

    def _refusal(self, method: str, path: str, status: int, text: bytes) -> Problem:
        said = text[:500].decode(errors="replace")
        return Problem("SWERL-R102", f"the {self.name} refused {method} {path}: {status} {said}", f"read logs/{self.name}.log of the run")

    def entry(self) -> dict[str, Any]:
        """What the service says of itself in ``services.json``. Raises _NoAnswer where it has not."""
        try:
            entry = orjson.loads(self.services.read_bytes())[self.name]
        except (FileNotFoundError, KeyError, orjson.JSONDecodeError) as error:
            raise _NoAnswer("it has not announced itself") from error
        if not entry:
            raise _NoAnswer("it has not announced itself")
        return entry

    def call_now(self, method: str, path: str, body: Any = None, timeout_s: float | None = 60.0) -> Any:
        """`call` for code outside an event loop. Opens and closes its own connection."""

        async def once() -> Any:
            single = Service(self.services, self.name, self.patience_s)
            try:
                return await single.call(method, path, body, timeout_s)
            finally:
                await single.close()

        return asyncio.run(once())

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        return self._session


class _NoAnswer(ConnectionError):
    """Nobody is there, or who is there is not whom we mean: ask again."""


def _problems(text: bytes) -> list[Problem]:
    """What the service itself says is wrong, if its answer says that."""
    try:
        said = orjson.loads(text).get("problems", [])
        return [Problem(**{name: value for name, value in one.items() if name != "anchor"}) for one in said]
    except (orjson.JSONDecodeError, AttributeError, TypeError):
        return []


class Absent:
    """In place of the gateway where nothing is sampled: nobody is there to be paused or told of weights."""

    def call_now(self, method: str, path: str, body: Any = None, timeout_s: float | None = 60.0) -> dict[str, Any]:
        return {}
