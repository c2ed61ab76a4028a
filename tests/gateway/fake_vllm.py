"""A plain vLLM server as far as the gateway asks it: ``/inference/v1/generate`` streamed, token by token, at the pace a test sets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import orjson
from aiohttp import web


class FakeVllm:
    """``say(number, prompt_ids)`` gives the tokens of request ``number``; ``break_at`` ends a connection after so many tokens, once.
    ``go`` is waited for before the token at ``hold_at``."""

    def __init__(self, say: Callable[[int, list[int]], list[int]]):
        self.say, self.requests = say, []
        self.hold_at: int | None = None
        self.go = asyncio.Event()
        self.break_at: int | None = None
        self.fail_at: int | None = None
        self.metrics: str | None = None
        self.health = 200
        self.url = ""

    async def start(self) -> None:
        app = web.Application(client_max_size=1 << 28)
        app.router.add_post("/inference/v1/generate", self._generate)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/health", self._health)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.05)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response(status=self.health)

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(text="# TYPE python_gc counter\n" if self.metrics is None else self.metrics)

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        body = orjson.loads(await request.read())
        number = len(self.requests)
        self.requests.append(body)
        tokens = self.say(number, body["token_ids"])
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for at, token in enumerate(tokens):
            if at == self.hold_at:
                await self.go.wait()
            if at == self.break_at:
                self.break_at = None
                request.transport.abort()
                return response
            if at == self.fail_at:
                self.fail_at = None
                await response.write(_event({"error": "it fell over"}))
                return response
            last = at == len(tokens) - 1
            logprobs = {"content": [{"logprob": -0.5 - at / 100}]}
            choice = {"token_ids": [token], "logprobs": logprobs, "finish_reason": "stop" if last else None}
            await response.write(_event({"choices": [choice]}))
        await response.write(_event({"choices": [], "usage": {"prompt_tokens_details": {"cached_tokens": 3}}}))
        await response.write(b"data: [DONE]\n\n")
        return response


def _event(data: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % orjson.dumps(data)
