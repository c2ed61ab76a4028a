"""The server: page, API, live events, ``/metrics``. Listens on the loopback address unless told otherwise; then a token is needed."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files

from aiohttp import web

from swerl.dashboard.catalogue import Catalogue
from swerl.dashboard.guard import Guard, add_headers, is_loopback, new_token
from swerl.dashboard.live import Follower
from swerl.dashboard.routes import MAX_COMPARED, Routes
from swerl.record.listening import Address, listen

ANSWERING_THREADS = 4
PAGE = {
    "index.html": "text/html",
    "app.js": "text/javascript",
    "app.css": "text/css",
    "icon.svg": "image/svg+xml",
}


class DashboardServer:
    """`start`, then `url`; `stop` closes everything. ``token`` is made when the address is not the loopback one and none is given."""

    def __init__(self, catalogue: Catalogue, address: Address, token: str | None = None):
        self._catalogue, self._address = catalogue, address
        self.token = token or (None if is_loopback(address.host) else new_token())
        self._threads = ThreadPoolExecutor(ANSWERING_THREADS, thread_name_prefix="answer")
        self._follower: Follower | None = None
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def start(self) -> None:
        """Raises SWERL-R301 when the address cannot be had."""
        self._follower = Follower(self._catalogue)
        app = web.Application(middlewares=[Guard(self.token).middleware(), self._follows], client_max_size=1024)
        app.on_response_prepare.append(add_headers)
        app.add_routes([*self._page(), *Routes(self._catalogue, self._threads).table(), web.get("/api/live", self._follower.stream)])
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0, handler_cancellation=True)
        await self._runner.setup()
        given = self._address.fd
        listening = listen(self._address) if given is None else socket.socket(fileno=given)
        await web.SockSite(self._runner, listening).start()
        host, port = listening.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{port}/" + (f"?token={self.token}" if self.token else "")
        self._follower.start()

    async def stop(self) -> None:
        if self._follower is not None:
            await self._follower.stop()
        if self._runner is not None:
            await self._runner.cleanup()
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._catalogue.close()

    @web.middleware
    async def _follows(self, request: web.Request, handler) -> web.StreamResponse:
        """A run that is asked about is followed."""
        one = request.match_info.get("run")
        names = [one] if one is not None else [name for name in request.query.get("runs", "").split(",") if name][:MAX_COMPARED]
        if names:
            found = self._catalogue.found()
            assert self._follower is not None
            for name in names:
                if name not in found:
                    return web.json_response({"error": "there is no such run"}, status=404)
                await self._follower.looked_at(name)
        return await handler(request)

    def _page(self) -> list[web.RouteDef]:
        """The page's few files, read once: what a client asks for is looked up here, never on the disk."""
        root = files("swerl.dashboard") / "page"
        found = {name: (root / name).read_bytes() for name in PAGE}

        def serve(name: str):
            async def handle(request: web.Request) -> web.Response:
                return web.Response(body=found[name], content_type=PAGE[name], charset="utf-8")

            return handle

        return [web.get("/", serve("index.html")), *(web.get(f"/{name}", serve(name)) for name in PAGE if name != "index.html")]


async def serve(server: DashboardServer, on_ready, parent_pid: int | None = None) -> None:
    """Run until SIGINT or SIGTERM; with ``parent_pid``, also until that process is no longer the parent."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(signum, ended.set)
    await server.start()
    on_ready()
    try:
        while not ended.is_set() and (parent_pid is None or os.getppid() == parent_pid):
            await asyncio.wait([asyncio.ensure_future(ended.wait())], timeout=1.0)
    finally:
        await server.stop()
