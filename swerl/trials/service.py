"""The runner's HTTP service (127.0.0.1, bearer token, JSON) and its life: lock, reap, serve, stop.

POST /trials    one trial; answers when it is settled. 409 with a problem: the run must stop. 503: ask this runner's successor
POST /cancel    {"version"} or {"identity"}; answers how many unfinished trials it ended
GET  /stats     counts, the breaker, quarantined tasks, what this machine's sandboxes cannot enforce
POST /shutdown  end everything that runs, clean up, exit
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from typing import Any

import orjson
from aiohttp import web

from swerl.errors import SwerlError
from swerl.record.events import EventLog
from swerl.record.model import Identity, TrialRequest
from swerl.record.services import announce
from swerl.record.trial_journal import Journal
from swerl.trials.attempt import AttemptRunner
from swerl.trials.backends import backend_of
from swerl.trials.breaker import BreakerOpen
from swerl.trials.clock import GatewayWatch
from swerl.trials.gateway import GatewayAdmin
from swerl.trials.sandboxes import reaper
from swerl.trials.scheduler import Scheduler, Stopping
from swerl.trials.settings import RunnerSettings


class Runner:
    """`start` takes the journal's lock, removes what an earlier runner of this run left, and serves; `ended` is set when it should stop."""

    def __init__(self, settings: RunnerSettings):
        self.settings = settings
        self.ended = asyncio.Event()
        self.url = ""
        self._token = secrets.token_hex(32)
        self._http: web.AppRunner | None = None

    async def start(self) -> None:
        settings = self.settings
        self._journal = Journal(settings.journal_path)
        self._backend = backend_of(settings.harbor["environment"])
        self._events = EventLog(settings.events_path, "runner")
        reaped = await asyncio.to_thread(self._reap)
        settings.trials_dir.mkdir(parents=True, exist_ok=True)
        self._gateway = GatewayAdmin(settings.services_path)
        self._watch = GatewayWatch(self._gateway.public_url)
        self._watch.start()
        self.scheduler = Scheduler(settings, self._journal, AttemptRunner(settings, self._gateway, self._watch, self._events), self._events)
        app = web.Application(client_max_size=1 << 20, middlewares=[self._border])
        app.add_routes(
            [
                web.post("/trials", self._trials),
                web.post("/cancel", self._cancel),
                web.get("/stats", self._stats),
                web.post("/shutdown", self._shutdown),
            ]
        )
        self._http = web.AppRunner(app, access_log=None, shutdown_timeout=2.0)
        await self._http.setup()
        listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        await web.SockSite(self._http, listener).start()
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        announce(settings.services_path, "runner", {"url": self.url, "token": self._token})
        self._events.emit(
            "runner.started",
            durable=True,
            settled=len(self._journal.settled),
            reaped=reaped.as_dict(),
            not_enforced=self._backend.gaps(),
            quarantined=self.scheduler.quarantine.tasks,
            quarantined_hosts=self.scheduler.quarantine.hosts,
        )

    async def stop(self) -> None:
        await self.scheduler.stop()
        if self._http is not None:
            await self._http.cleanup()
        await self._watch.stop()
        await self._gateway.shut()
        await asyncio.to_thread(self._reap)
        self._events.emit("runner.stopped", durable=True, **self.scheduler.stats())
        self._events.close()
        self._journal.close()

    def _reap(self) -> reaper.Reaped:
        """Remove what carries this run's tag, under the journal's lock. An engine or a cluster is asked only when sandboxes are there."""
        found = reaper.reap(self.settings.run_tag, self.settings.sandbox.get("work_dir"))
        try:
            for kind, count in self._backend.reap(self.settings.run_tag, self.settings.harbor["environment"]).items():
                setattr(found, kind, count)
        except RuntimeError as error:
            self._events.emit("runner.not_reaped", error=str(error))
        return found

    @web.middleware
    async def _border(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if not secrets.compare_digest(request.headers.get("Authorization", "").encode(), f"Bearer {self._token}".encode()):
            return _answer({"error": "the runner's token is missing or wrong"}, 401)
        try:
            return await handler(request)
        except Stopping as error:
            return _answer({"error": str(error)}, 503)
        except SwerlError as error:
            status = 409 if isinstance(error, BreakerOpen) else 400
            return _answer({"error": str(error), "problems": [problem.as_dict() for problem in error.problems]}, status)

    async def _trials(self, request: web.Request) -> web.Response:
        result = await self.scheduler.ask(TrialRequest.from_json(await _body(request)))
        return _answer(result.as_dict())

    async def _cancel(self, request: web.Request) -> web.Response:
        body = await _body(request)
        identity = body.get("identity")
        try:
            who = Identity(**identity) if identity else None
        except TypeError:
            return _answer({"error": "identity is {split, task_hash, sample, version}"}, 400)
        if who is None and not body.get("version"):
            return _answer({"error": "name a version or an identity"}, 400)
        return _answer({"cancelled": self.scheduler.cancel(body.get("version"), who)})

    async def _stats(self, request: web.Request) -> web.Response:
        return _answer({**self.scheduler.stats(), "gateway_down": self._watch.down, "not_enforced": self._backend.gaps()})

    async def _shutdown(self, request: web.Request) -> web.Response:
        self.ended.set()
        return _answer({"shutting_down": True})


async def _body(request: web.Request) -> dict[str, Any]:
    try:
        body = orjson.loads(await request.read())
    except orjson.JSONDecodeError:
        body = None
    if not isinstance(body, dict):
        raise web.HTTPBadRequest(text="the body must be a JSON object")
    return body


def _answer(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(value), status=status, content_type="application/json")
