"""The admin surface: sessions for the runner, pause and resume for the trainer, figures for everybody with the token.

It listens on 127.0.0.1 only, on a port of its own, and wants ``Authorization: Bearer <admin_token>``. Every call can be repeated.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import orjson
from aiohttp import web

from swerl.gateway.engines.base import EngineSpec
from swerl.gateway.errors import ApiError
from swerl.gateway.gate import EngineGate, StaleEpochError
from swerl.gateway.metrics import Metrics, per_session
from swerl.gateway.session import Session
from swerl.gateway.store import SessionStore


class AdminSurface:
    def __init__(self, token: str, store: SessionStore, gate: EngineGate, metrics: Metrics, shutdown: Callable[[], None]):
        self._token, self._store, self._gate, self._metrics, self._shutdown = token, store, gate, metrics, shutdown

    def app(self) -> web.Application:
        app = web.Application(client_max_size=1 << 20, middlewares=[self._authorised])
        app.add_routes(
            [
                web.post("/sessions", self._open),
                web.post("/sessions/{id}/close", self._close),
                web.get("/sessions/{id}/hold", self._hold),
                web.get("/sessions/{id}/recording", self._recording),
                web.post("/engine", self._engine),
                web.post("/pause", self._pause),
                web.post("/resume", self._resume),
                web.get("/stats", self._stats),
                web.get("/metrics", self._prometheus),
                web.post("/shutdown", self._end),
            ]
        )
        return app

    @web.middleware
    async def _authorised(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if not secrets.compare_digest(request.headers.get("Authorization", "").encode(), f"Bearer {self._token}".encode()):
            return _answer({"error": "the admin token is missing or wrong"}, 401)
        try:
            return await handler(request)
        except ApiError as error:
            return _answer({"error": error.message, "code": error.code}, error.status)
        except StaleEpochError as error:
            return _answer({"error": str(error), "code": "stale_epoch"}, 409)

    async def _open(self, request: web.Request) -> web.Response:
        body = await _body(request)
        session, key = await self._store.open(
            _typed(body, "trial", dict, {}), _typed(body, "sampling", dict, {}), _typed(body, "seed", int), _typed(body, "max_turns", int)
        )
        return _answer({"session": session.id, "key": key})

    async def _close(self, request: web.Request) -> web.Response:
        session = await self._session(request)
        return _answer(await self._store.close(session, str((await _body(request)).get("reason") or "closed")))

    async def _hold(self, request: web.Request) -> web.Response:
        return _answer({"hold_s": round((await self._session(request)).hold.total_s, 3)})

    async def _recording(self, request: web.Request) -> web.Response:
        session = await self._session(request)
        which = request.query.get("paths", "all")
        if which not in ("all", "main"):
            raise ApiError(400, "invalid_request", "paths is all or main")
        return _answer(session.recording(which))

    async def _engine(self, request: web.Request) -> web.Response:
        body = await _body(request)
        kind = body.get("kind", "bridge")
        if kind not in ("bridge", "vllm"):
            raise ApiError(400, "invalid_request", "kind is bridge or vllm")
        spec = EngineSpec(
            kind=kind,
            url=_needed(body, "url", str).rstrip("/"),
            token=_typed(body, "token", str, ""),
            epoch=_needed(body, "epoch", int),
            version=_typed(body, "version", int, 0),
        )
        await self._gate.register(spec)
        return _answer({"epoch": spec.epoch})

    async def _pause(self, request: web.Request) -> web.Response:
        body = await _body(request)
        aborted = await self._gate.pause(_typed(body, "reason", str, ""), _needed(body, "epoch", int))
        return _answer({"paused": True, "aborted": aborted})

    async def _resume(self, request: web.Request) -> web.Response:
        body = await _body(request)
        self._gate.resume(_needed(body, "version", int), _needed(body, "epoch", int))
        return _answer({"paused": False, "version": self._gate.version})

    async def _stats(self, request: web.Request) -> web.Response:
        live = self._store.live()
        return _answer({"sessions": len(live), "working": sum(len(s.works) for s in live), **self._gate.stats(), **self._metrics.as_dict()})

    async def _prometheus(self, request: web.Request) -> web.Response:
        live, stats = self._store.live(), self._gate.stats()
        gauges = {
            "sessions": len(live),
            "in_flight": stats["in_flight"],
            "waiting": stats["waiting"],
            "admitted": stats["admitted"],
            "admitted_tokens": stats["admitted_tokens"],
            "paused": int(stats["paused"]),
            "engine_version": stats["version"],
            "hold_seconds": sum(s.hold.total_s for s in live),
        }
        text = self._metrics.prometheus(gauges)
        if request.query.get("sessions") == "1":  # thousands of series, for who asks
            text += per_session({s.id: s.figures() for s in live})
        return web.Response(text=text, content_type="text/plain")

    async def _end(self, request: web.Request) -> web.Response:
        self._shutdown()
        return _answer({"shutting_down": True})

    async def _session(self, request: web.Request) -> Session:
        session = await self._store.by_id(request.match_info["id"])
        if session is None:
            raise ApiError(404, "no_such_session", "No session has this id.")
        return session


async def _body(request: web.Request) -> dict[str, Any]:
    try:
        data = await request.read()
        body = orjson.loads(data) if data else {}
    except orjson.JSONDecodeError as error:
        raise ApiError(400, "invalid_json", f"The body is no JSON: {error}") from error
    if not isinstance(body, dict):
        raise ApiError(400, "invalid_json", "The body must be a JSON object.")
    return body


def _typed(body: dict[str, Any], name: str, kind: type, default: Any = None) -> Any:
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ApiError(400, "invalid_request", f"{name} must be {kind.__name__}", param=name)
    return value


def _needed(body: dict[str, Any], name: str, kind: type) -> Any:
    value = _typed(body, name, kind)
    if value is None:
        raise ApiError(400, "invalid_request", f"{name} is missing", param=name)
    return value


def _answer(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(value), status=status, content_type="application/json")
