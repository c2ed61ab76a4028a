"""The JSON API: one route per question, parameters checked here. Every answer is made in a thread, from an index's own reader.

A run is named by what `Catalogue` listed, a trial by a key of the index, a log by its listed name: 404 for anything else.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson
from aiohttp import web

from swerl.dashboard.catalogue import Catalogue
from swerl.dashboard.context import Seen
from swerl.dashboard.prometheus import exposition, samples_of
from swerl.dashboard.views import cost, curves, engine, logs, overview, session, tasks, trial, trials

Query = Mapping[str, str]
SPLITS = ("train", "val")
MAX_LISTED = 500
MAX_OFFSET = 10_000_000
MAX_NAMES = 64
MAX_COMPARED = 8
MAX_TEXT = 200
PACKED_BYTES = 4096
PACKED_LEVEL = 1  # a fifth of the time of zlib's own choice, for a body a fifth larger


class Bad(Exception):
    """A parameter that cannot be what it is."""


class Routes:
    """``threads`` answers questions; indexes are refreshed elsewhere."""

    def __init__(self, catalogue: Catalogue, threads: ThreadPoolExecutor):
        self._catalogue, self._threads = catalogue, threads

    def table(self) -> list[web.RouteDef]:
        one: dict[str, Callable[[Seen, Query], Any]] = {
            "overview": lambda seen, q: overview.overview(seen),
            "config": lambda seen, q: overview.configuration(seen),
            "names": lambda seen, q: curves.names(seen),
            "series": lambda seen, q: curves.series(seen, _words(q, "names"), _number(q, "first"), _number(q, "last")),
            "validations": lambda seen, q: curves.validations(seen),
            "rates": lambda seen, q: curves.resolve_rates(seen),
            "tasks": lambda seen, q: tasks.grid(seen, _choice(q, "split", SPLITS)),
            "steps": lambda seen, q: trials.by_step(seen, _choice(q, "split", SPLITS)),
            "trials": _trials,
            "timeline": lambda seen, q: trials.timeline(seen, _choice(q, "split", SPLITS), _needed(q, "step")),
            "tail": lambda seen, q: trials.tail(seen),
            "trial": lambda seen, q: _found(trial.trial(seen, _text(q, "key"))),
            "tokens": lambda seen, q: _found(session.turn_tokens(seen, _text(q, "session"), _needed(q, "turn"))),
            "engine": lambda seen, q: engine.engine(seen),
            "cost": lambda seen, q: cost.cost(seen),
            "logs": lambda seen, q: logs.listing(seen),
            "log": _log,
        }
        found = [web.get(f"/api/run/{{run}}/{name}", self._one(view)) for name, view in one.items()]
        return [*found, web.get("/api/runs", self._runs), web.get("/api/compare", self._compare), web.get("/metrics", self._metrics)]

    def _one(self, view: Callable[[Seen, Query], Any]) -> Callable[[web.Request], Any]:
        async def handle(request: web.Request) -> web.Response:
            def answer() -> Any:
                with self._catalogue.seeing(request.match_info["run"]) as seen:
                    return view(seen, request.query)

            return await self._answer(request, answer)

        return handle

    async def _runs(self, request: web.Request) -> web.Response:
        return await self._answer(request, self._catalogue.listing)

    async def _compare(self, request: web.Request) -> web.Response:
        """The same series of several runs, and the keys of their configurations that differ."""

        def answer() -> Any:
            names = _words(request.query, "runs")[:MAX_COMPARED]
            found: dict[str, Any] = {}
            tables = {}
            for name in names:
                with self._catalogue.seeing(name) as seen:
                    found[name] = curves.series(seen, _words(request.query, "names"), None, None)
                    tables[name] = overview.configuration(seen)
            return {"series": found, "config": overview.difference(tables)}

        return await self._answer(request, answer)

    async def _metrics(self, request: web.Request) -> web.Response:
        def answer() -> str:
            wanted = [e for e in self._catalogue.listing() if e["live"] or e["id"] in self._catalogue.opened()]
            samples = []
            for entry in wanted:
                with self._catalogue.seeing(entry["id"]) as seen:
                    samples += samples_of(entry, seen)
            return exposition(samples)

        text = await asyncio.get_running_loop().run_in_executor(self._threads, answer)
        return web.Response(text=text, content_type="text/plain", charset="utf-8")

    async def _answer(self, request: web.Request, make: Callable[[], Any]) -> web.Response:
        packed = "deflate" in request.headers.get("Accept-Encoding", "")

        def encoded() -> tuple[bytes, dict[str, str]]:
            body = orjson.dumps(make(), option=orjson.OPT_NON_STR_KEYS, default=str)
            if packed and len(body) > PACKED_BYTES:
                return zlib.compress(body, PACKED_LEVEL), {"Content-Encoding": "deflate"}
            return body, {}

        try:
            body, headers = await asyncio.get_running_loop().run_in_executor(self._threads, encoded)
        except Bad as error:
            return _json({"error": str(error)}, 400)
        except KeyError:
            return _json({"error": "there is nothing of that name"}, 404)
        return web.Response(body=body, headers=headers, content_type="application/json", charset="utf-8")


def _trials(seen: Seen, q: Query) -> Any:
    where: dict[str, Any] = {name: _text(q, name) for name in ("outcome", "fate", "task", "text") if q.get(name)}
    if q.get("split"):
        where["split"] = _choice(q, "split", SPLITS)
    where["step"] = _number(q, "step")
    where["findings"] = q.get("findings") == "1"
    where["resolved"] = {"1": True, "0": False}.get(q.get("resolved", ""))
    limit = min(MAX_LISTED, max(1, _number(q, "limit") or 50))
    offset = min(MAX_OFFSET, max(0, _number(q, "offset") or 0))
    return trials.listed(seen, where=where, order=_choice(q, "order", tuple(trials.ORDERS)), limit=limit, offset=offset)


def _log(seen: Seen, q: Query) -> Any:
    path = logs.logs(seen)[_text(q, "name")]
    if q.get("search"):
        return logs.search(seen, path, _text(q, "search"))
    return logs.page(seen, path, _number(q, "end"), _number(q, "start"))


def _found(value: Any) -> Any:
    if value is None:
        raise KeyError
    return value


def _text(q: Query, name: str) -> str:
    value = q.get(name, "")
    if not value or len(value) > MAX_TEXT * 4:
        raise Bad(f"{name} is missing or too long")
    return value


def _words(q: Query, name: str) -> list[str]:
    return [word for word in q.get(name, "").split(",") if word][:MAX_NAMES]


def _choice(q: Query, name: str, choices: tuple[str, ...]) -> str:
    value = q.get(name, choices[0])
    if value not in choices:
        raise Bad(f"{name} is one of {', '.join(choices)}")
    return value


def _number(q: Query, name: str) -> int | None:
    value = q.get(name)
    if value is None or value == "":
        return None
    if not value.isascii() or not value.isdigit() or len(value) > 15:
        raise Bad(f"{name} is a whole number")
    return int(value)


def _needed(q: Query, name: str) -> int:
    value = _number(q, name)
    if value is None:
        raise Bad(f"{name} is missing")
    return value


def _json(value: Any, status: int) -> web.Response:
    return web.Response(body=orjson.dumps(value), status=status, content_type="application/json")
