"""A real server on a free port, asked over real HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from swerl.dashboard.catalogue import Catalogue
from swerl.dashboard.server import DashboardServer
from swerl.record.listening import Address


@asynccontextmanager
async def serving(
    runs: Path, host: str = "127.0.0.1", token: str | None = None
) -> AsyncIterator[tuple[DashboardServer, aiohttp.ClientSession]]:
    server = DashboardServer(Catalogue(runs), Address(host, 0), token)
    await server.start()
    try:
        async with aiohttp.ClientSession() as http:
            yield server, http
    finally:
        await server.stop()


def with_server(runs: Path, ask: Callable[[str, aiohttp.ClientSession], Awaitable[None]], **options: str) -> None:
    """``ask(url without its last slash, client)`` while a server shows ``runs``."""

    async def go() -> None:
        async with serving(runs, **options) as (server, http):
            await ask(server.url.partition("?")[0].rstrip("/"), http)

    asyncio.run(go())
