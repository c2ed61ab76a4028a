"""What the runner asks of the gateway's admin surface. Every call is idempotent there, so each is tried again while the gateway is away."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swerl.record.client import Away, Refused, Service


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
        self._service = Service(services, "gateway", patience_s)

    def public_url(self) -> str:
        """Where agents reach the gateway, without a trailing slash. GatewayUnreachable when none has announced itself."""
        try:
            return str(self._service.entry()["public_url"]).rstrip("/")
        except ConnectionError as error:
            raise GatewayUnreachable(f"the gateway: {error}") from error

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
        await self._service.close()

    async def _call(self, method: str, path: str, body: Any = None) -> Any:
        """An attempt's evidence names what went wrong by type, so the gateway's troubles have types of their own here."""
        try:
            return await self._service.call(method, path, body)
        except Away as error:
            raise GatewayUnreachable(error.problems[0].message) from error
        except Refused as error:
            raise GatewayRefused(error.problems[0].message) from error
