"""The trainer's line to the gateway and the runner: JSON over HTTP, through their restarts.

Both write their address and token into ``services.json`` when they are up. A call that finds nobody re-reads the file and tries again until
``patience_s`` is used up; all calls are idempotent by contract, so a repeated one does no harm.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from swerl.errors import Problem, SwerlError, fail

_RETRY_S = 0.5
_AWAY = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, ConnectionError, asyncio.TimeoutError)


class Service:
    """One of ``gateway`` (its admin surface) and ``runner``. ``patience_s`` bounds how long it may stay away before a call gives up."""

    def __init__(self, services: Path, name: str, patience_s: float = 120.0):
        self.services, self.name, self.patience_s = services, name, patience_s
        self._session: aiohttp.ClientSession | None = None

    async def call(self, method: str, path: str, body: Any = None, timeout_s: float | None = 60.0) -> Any:
        """The JSON of the answer. Raises SwerlError SWERL-R101 when the service stays away, SWERL-R102 when it refuses the call and
        does not say why in problems of its own, which are raised then.

        ``timeout_s=None`` waits for the answer as long as the connection lives (a trial takes as long as it takes).
        """
        away_since = time.monotonic()
        reason = "it has not announced itself"
        while True:
            address = self._address()
            if address is not None:
                url, token = address
                asked_at = time.monotonic()
                try:
                    async with self._client().request(
                        method,
                        f"{url}{path}",
                        data=None if body is None else orjson.dumps(body),
                        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
                        timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=5),
                    ) as answer:
                        text = await answer.read()
                        if answer.status < 400:
                            return orjson.loads(text) if text else {}
                        if answer.status not in (401, 502, 503):  # 401: the token of the process before the restart
                            if problems := _problems(text):
                                raise SwerlError(*problems)
                            raise fail(
                                "SWERL-R102",
                                f"the {self.name} refused {method} {path}: {answer.status} {text[:500].decode(errors='replace')}",
                                f"read logs/{self.name}.log of the run",
                            )
                        reason = f"it answers {answer.status}"
                except _AWAY as error:
                    reason = f"{type(error).__name__}: {error}"
                    if time.monotonic() - asked_at > 2 * _RETRY_S:
                        away_since = time.monotonic()  # it held the call for a while before it went: it was there until now
            if time.monotonic() - away_since > self.patience_s:
                raise fail(
                    "SWERL-R101",
                    f"the {self.name} has been away for {self.patience_s:.0f} s ({reason})",
                    f"read logs/{self.name}.log of the run; the same command resumes",
                )
            await asyncio.sleep(_RETRY_S)

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

    def _address(self) -> tuple[str, str] | None:
        try:
            entry = orjson.loads(self.services.read_bytes()).get(self.name)
        except FileNotFoundError:
            return None
        if not entry:
            return None
        return (entry["admin_url"], entry["admin_token"]) if self.name == "gateway" else (entry["url"], entry["token"])


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
