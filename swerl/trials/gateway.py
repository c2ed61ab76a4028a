"""The runner's line to the gateway's admin surface. Every call is idempotent there, so each is tried again while the gateway is away.

Address and token come from `services.json`, read anew after every failure: a restarted gateway has new ones.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson

_AWAY = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, ConnectionError, asyncio.TimeoutError)
_AWAY_STATUS = (401, 502, 503, 504)  # 401: the token of the gateway before its restart


class GatewayUnreachable(RuntimeError):
    """The gateway stayed away longer than a trial may wait for it."""


class GatewayRefused(RuntimeError):
    """The gateway answered and said no."""


@dataclass(frozen=True, slots=True)
class Session:
    """A session as its opener sees it. ``key`` is the agent's capability: it goes to the agent and into no file of ours."""

    id: str
    key: str


@dataclass(frozen=True, slots=True)
class Closed:
    """``usage``: tokens read, found in the cache and sampled, and the engine's seconds. ``unanswered``: requests that ended in an error of
    ours, or that their client left while it was kept waiting for the engine, and that were not answered later. ``silent_s``: between the
    last answer that a client read and the session's end, None when the process of the gateway that ended it gave none."""

    turns: int
    hold_s: float
    usage: Mapping[str, float]
    overflow: bool
    max_turns: bool
    unanswered: int
    silent_s: float | None


class GatewayAdmin:
    """``patience_s`` bounds how long one call waits for a gateway that is away."""

    def __init__(self, services: Path, patience_s: float = 300.0):
        self._services, self._patience_s = services, patience_s
        self._http: aiohttp.ClientSession | None = None

    def public_url(self) -> str:
        """Where agents reach the gateway, without a trailing slash. GatewayUnreachable when none has announced itself."""
        return str(self._entry()["public_url"]).rstrip("/")

    async def open(self, trial: Mapping[str, Any], sampling: Mapping[str, Any], seed: int, max_turns: int | None) -> Session:
        answer = await self._call("POST", "/sessions", {"trial": trial, "sampling": sampling, "seed": seed, "max_turns": max_turns})
        return Session(answer["session"], answer["key"])

    async def close(self, session: str, reason: str) -> Closed:
        answer = await self._call("POST", f"/sessions/{session}/close", {"reason": reason})
        return Closed(
            int(answer["turns"]),
            float(answer["hold_s"]),
            answer.get("usage") or {},
            bool(answer["overflow"]),
            bool(answer["max_turns"]),
            int(answer["unanswered"]),
            answer.get("silent_s"),
        )

    async def hold_s(self, session: str) -> float:
        """Seconds that the session was kept waiting so far, a hold that is going on included."""
        return float((await self._call("GET", f"/sessions/{session}/hold"))["hold_s"])

    async def engine_answers(self) -> bool:
        """Whether the gateway has an engine that answers. An evaluation's gateway before somebody else's server does not say; it counts."""
        return bool((await self._call("GET", "/stats")).get("answers", True))

    async def shut(self) -> None:
        if self._http is not None:
            await self._http.close()
            self._http = None

    async def _call(self, method: str, path: str, body: Any = None) -> Any:
        started, reason = time.monotonic(), "it has not announced itself"
        delay_s = 0.05
        while True:
            try:
                entry = self._entry()
                async with self._client().request(
                    method,
                    f"{entry['admin_url']}{path}",
                    data=None if body is None else orjson.dumps(body),
                    headers={"Authorization": f"Bearer {entry['admin_token']}", "Content-Type": "application/json"},
                ) as answer:
                    text = await answer.read()
                    if answer.status < 400:
                        return orjson.loads(text)
                    if answer.status not in _AWAY_STATUS:
                        raise GatewayRefused(f"{method} {path.split('/')[1]}: {answer.status} {text[:300].decode(errors='replace')}")
                    reason = f"it answers {answer.status}"
            except _AWAY as error:
                reason = f"{type(error).__name__}: {error}"
            except GatewayUnreachable as error:
                reason = str(error)
            if time.monotonic() - started > self._patience_s:
                raise GatewayUnreachable(f"the gateway has been away for {self._patience_s:.0f} s ({reason})")
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 1.6, 2.0)

    def _entry(self) -> Mapping[str, Any]:
        try:
            return orjson.loads(self._services.read_bytes())["gateway"]
        except (FileNotFoundError, KeyError, orjson.JSONDecodeError) as error:
            raise GatewayUnreachable("the gateway has not announced itself in services.json") from error

    def _client(self) -> aiohttp.ClientSession:
        if self._http is None:
            self._http = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=60, sock_connect=5)
            )
        return self._http
