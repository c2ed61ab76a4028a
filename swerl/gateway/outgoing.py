"""One answer on its way to a client, every step within the time a client may take to read.

A client that does not read what it is sent is a client that has gone away: its connection is broken, the turn counts as undelivered, and
its retry gets it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from aiohttp import web


class Outgoing:
    """``response`` is None until the answer has begun. Every method raises ConnectionError when the client is gone or does not read."""

    def __init__(self, request: web.Request, read_s: float):
        self._request, self._read_s = request, read_s
        self.response: web.StreamResponse | None = None

    async def begin(self, content_type: str) -> None:
        headers = {"Content-Type": content_type, "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        self.response = web.StreamResponse(headers=headers)
        await self._within(self.response.prepare(self._request))

    async def write(self, data: bytes) -> None:
        assert self.response is not None
        await self._within(self.response.write(data))

    async def end(self) -> web.StreamResponse:
        """After it the last byte has been handed to the connection."""
        assert self.response is not None
        await self._within(self.response.write_eof())
        return self.response

    async def whole(self, body: bytes, content_type: str) -> web.StreamResponse:
        """An answer that has not begun, at once and with its length."""
        self.response = web.Response(body=body, content_type=content_type)
        await self._within(self.response.prepare(self._request))
        return await self.end()

    def break_off(self) -> web.StreamResponse:
        """Break the connection, and the client tries again: where the status is already sent it cannot become an error, and where this
        process ends the next one has the answer."""
        if self._request.transport is not None:
            self._request.transport.abort()
        return self.response or web.Response(status=503)  # that nobody reads

    async def _within(self, step: Awaitable[Any]) -> None:
        try:
            async with asyncio.timeout(self._read_s):
                await step
        except TimeoutError as error:
            self.break_off()
            raise ConnectionResetError(f"the client has read nothing for {self._read_s:g} s") from error
