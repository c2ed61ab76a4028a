"""Keeps the indexes of runs that somebody looks at up to date, and tells the pages: server-sent events.

An event is the run's index revision and how far a first reading is; the page then asks again for what it shows. A comment every
``KEEPALIVE_S`` lets a connection that is gone be noticed. An index that cannot be written (a full disk) is told, and tried again.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson
from aiohttp import web

from swerl.dashboard.catalogue import Catalogue
from swerl.dashboard.index import RunIndex

POLL_S = 0.7
WATCHED_S = 60.0  # a run is followed so long after somebody last asked for it
KEEPALIVE_S = 15.0
MAX_LISTENERS = 64


class Follower:
    """One task; the reading itself happens in a thread of its own."""

    def __init__(self, catalogue: Catalogue):
        self._catalogue = catalogue
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="index")
        self._asked: dict[str, float] = {}
        self._trouble: dict[str, str] = {}
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self.listeners = 0

    def start(self) -> None:
        self._task = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        self._stopping.set()
        self._tell()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.get_running_loop().run_in_executor(None, lambda: self._thread.shutdown(wait=True))

    async def looked_at(self, name: str) -> None:
        """Somebody asks about this run: its index is opened, and read at least once before the answer unless that takes long."""
        first = name not in self._catalogue.opened()
        self._asked[name] = time.monotonic()
        if first:
            loop = asyncio.get_running_loop()
            index = await loop.run_in_executor(self._thread, self._catalogue.index, name)
            await asyncio.wait([asyncio.ensure_future(self._refreshed(name, index))], timeout=1.5)

    async def _refreshed(self, name: str, index: RunIndex) -> bool:
        """Whether there is something new to tell."""
        changed, trouble = False, ""
        try:
            changed = await asyncio.get_running_loop().run_in_executor(self._thread, index.refresh)
        except (OSError, sqlite3.Error) as error:
            trouble = str(error)
        before, self._trouble[name] = self._trouble.get(name, ""), trouble
        return changed or trouble != before

    async def _follow(self) -> None:
        while True:
            now = time.monotonic()
            for name, index in self._catalogue.opened().items():
                if now - self._asked.get(name, 0.0) < WATCHED_S and await self._refreshed(name, index):
                    self._tell()
            await asyncio.sleep(POLL_S)

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """``GET /api/live?run=``."""
        name = request.query.get("run", "")
        if name not in self._catalogue.found():
            return web.Response(status=404, text="there is no such run\n")
        if self.listeners >= MAX_LISTENERS:
            return web.Response(status=503, text="too many pages are open\n")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        await response.prepare(request)
        self.listeners += 1
        try:
            sent: Any = None
            spoke = 0.0
            while not self._stopping.is_set():
                await self.looked_at(name)
                state = self._state(name)
                if state != sent:
                    await response.write(b"data: " + orjson.dumps(state) + b"\n\n")
                    sent, spoke = state, time.monotonic()
                elif time.monotonic() - spoke > KEEPALIVE_S:
                    await response.write(b": still here\n\n")
                    spoke = time.monotonic()
                reading = state["behind"] > 0
                waiting = asyncio.ensure_future(self._changed.wait())
                await asyncio.wait([waiting], timeout=0.5 if reading else 5.0)
                waiting.cancel()
        except (ConnectionResetError, asyncio.CancelledError):
            pass  # the page was closed
        finally:
            self.listeners -= 1
        return response

    def _state(self, name: str) -> dict[str, Any]:
        index = self._catalogue.opened()[name]
        return {"run": name, "revision": index.revision, "behind": round(index.behind, 2), "trouble": self._trouble.get(name, "")}
