"""The one way out of a sandbox with network "gateway": its listening socket, which the runner serves, leads to the gateway only."""

from __future__ import annotations

import asyncio
import contextlib
import socket

_CHUNK = 1 << 16


class Relay:
    """Serves ``listener`` (which lives in the sandbox's network namespace) until closed; each connection becomes one to host:port."""

    def __init__(self, listener: socket.socket, host: str, port: int):
        self._listener, self._host, self._port = listener, host, port
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._carry, sock=self._listener)

    async def close(self) -> None:
        """No connection, old or new, reaches the gateway after this."""
        if self._server is not None:
            self._server.close()
            for writer in list(self._open):
                writer.transport.abort()

    async def _carry(self, near_in: asyncio.StreamReader, near_out: asyncio.StreamWriter) -> None:
        self._open.add(near_out)
        try:
            far_in, far_out = await asyncio.open_connection(self._host, self._port)
        except OSError:  # the gateway is away: the agent's client sees a closed connection and tries again
            near_out.transport.abort()
            self._open.discard(near_out)
            return
        self._open.add(far_out)
        try:
            await asyncio.gather(_pipe(near_in, far_out), _pipe(far_in, near_out))
        finally:
            for writer in (near_out, far_out):
                writer.transport.abort()
                self._open.discard(writer)


async def _pipe(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(_CHUNK):
            target.write(data)
            await target.drain()
        if target.can_write_eof():
            target.write_eof()
