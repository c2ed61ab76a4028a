"""The public surface: agents' requests in, sampled turns out.

Keys come in the path (``/t/<key>/v1/...``), as a bearer token or as ``x-api-key``. A request is read, placed and refused before any answer
begins; then a stream starts at once and carries keep-alives, and a plain answer that takes long starts with blanks (JSON allows them), so
that no client's read timeout ends a long wait. A turn counts as delivered when its last byte has been handed to the connection.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from array import array
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import orjson
from aiohttp import web

from swerl.gateway.chat import Answer
from swerl.gateway.dialects.anthropic_messages import AnthropicMessages
from swerl.gateway.dialects.base import Dialect, Reply
from swerl.gateway.dialects.openai_chat import OpenAIChat
from swerl.gateway.dialects.openai_responses import OpenAIResponses
from swerl.gateway.errors import ApiError, SuspendedError
from swerl.gateway.history import Histories
from swerl.gateway.live import LiveText
from swerl.gateway.metrics import Metrics
from swerl.gateway.outgoing import Outgoing
from swerl.gateway.session import Session, Ticket
from swerl.gateway.settings import GatewaySettings
from swerl.gateway.spans import Spans
from swerl.gateway.store import SessionStore
from swerl.gateway.tokenizer import Tokenizer
from swerl.gateway.tree import Context, Tokens, Turn

_COALESCE_S = 0.05  # between writes of one stream: at most twenty a second

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class PublicSurface:
    def __init__(self, settings: GatewaySettings, store: SessionStore, tokenizer: Tokenizer, metrics: Metrics, spans: Spans):
        self.settings, self.store, self.tokenizer, self.metrics, self.spans = settings, store, tokenizer, metrics, spans

    def app(self) -> web.Application:
        app = web.Application(client_max_size=self.settings.max_body_mb << 20, middlewares=[plain_refusals])
        anthropic = AnthropicMessages()
        posts = {
            "chat/completions": self._endpoint(OpenAIChat()),
            "responses": self._endpoint(OpenAIResponses()),
            "messages": self._endpoint(anthropic),
            "messages/count_tokens": self._counter(anthropic),
        }
        for prefix in ("", "/v1", "/t/{key}", "/t/{key}/v1"):
            for path, handler in posts.items():
                app.router.add_post(f"{prefix}/{path}", handler)
            app.router.add_get(f"{prefix}/models", self._models, allow_head=True)
            app.router.add_get(f"{prefix}/models/{{name:.+}}", self._model, allow_head=True)
        app.router.add_get("/health/liveliness", self._alive, allow_head=True)
        app.router.add_get("/health/liveness", self._alive, allow_head=True)
        app.router.add_route("HEAD", "/", self._alive)
        app.router.add_route("HEAD", "/t/{key}", self._alive)
        app.router.add_route("HEAD", "/t/{key}/", self._alive)
        return app

    def _endpoint(self, dialect: Dialect) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            began = time.monotonic()
            try:
                session = await self.store.by_key(key_of(request))
                chat = dialect.parse(*await read_json(request, self.settings), session.histories)
                ticket = await session.ticket(chat)
            except ApiError as error:
                self.metrics.refused(error)
                return refusal(dialect, error)
            except SuspendedError:
                return Outgoing(request, self.settings.read_s).break_off()
            return await self._deliver(request, dialect, session, ticket, began)

        return handle

    def _counter(self, dialect: Dialect) -> Handler:
        """Anthropic's count_tokens: what the conversation would cost as a prompt. Nothing is sampled or kept."""

        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                session = await self.store.by_key(key_of(request))
                chat = dialect.parse(*await read_json(request, self.settings), Histories())
                count = await session.count_tokens(chat)
            except ApiError as error:
                self.metrics.refused(error)
                return refusal(dialect, error)
            return web.json_response({"input_tokens": count})

        return handle

    async def _deliver(self, request: web.Request, dialect: Dialect, session: Session, ticket: Ticket, began: float) -> web.StreamResponse:
        chat, delivered = ticket.request, False
        out = Outgoing(request, self.settings.read_s)
        try:
            if chat.stream:
                await out.begin("text/event-stream")
            written = 0
            if ticket.live is not None:
                written = await self._send_live(out, dialect, session, ticket, ticket.live)
            while True:
                try:
                    turn = await session.result(ticket, self.settings.keepalive_s)
                    break
                except TimeoutError:
                    if out.response is None:
                        await out.begin("application/json")
                    await out.write(dialect.keepalive if chat.stream else b" ")
            if ticket.live is not None and ticket.live.broken:
                raise ApiError(502, "engine_error", "The turn was sampled anew while it was sent; ask again for it.", retry=True)
            reply = self._reply(session, ticket, turn)
            if out.response is None:
                await out.whole(orjson.dumps(dialect.answer(reply)), "application/json")
            else:
                events = itertools.islice(dialect.stream(reply), written, None) if chat.stream else (orjson.dumps(dialect.answer(reply)),)
                await out.write(b"".join(events))
                await out.end()
            delivered = True
            took_s = time.monotonic() - began
            self.metrics.answered(turn, took_s)
            self.spans.answered(session, turn, type(dialect).__name__, took_s)
            return out.response
        except ApiError as error:
            self.metrics.refused(error)
            if out.response is None:
                return refusal(dialect, error)
            if not chat.stream:
                return out.break_off()
            with suppress(ConnectionError):
                await out.write(dialect.stream_error(error))
                await out.end()
            return out.response
        except SuspendedError:
            return out.break_off()
        except ConnectionError:
            assert out.response is not None
            return out.response  # the client went away while it was written to
        finally:
            (session.delivered if delivered else session.lost)(ticket)

    async def _send_live(self, out: Outgoing, dialect: Dialect, session: Session, ticket: Ticket, live: LiveText) -> int:
        """Send text as it is sampled, until the turn is over. Returns how many events of the stream have been written."""
        written, spoke = 0, time.monotonic()
        assert ticket.work is not None and ticket.work.task is not None
        task = ticket.work.task
        while (text := await session.text(ticket, self.settings.keepalive_s)) is not None:
            if text:
                turn = in_progress(ticket.work.turn_id, ticket.context, "".join(live.sent))
                events = list(dialect.stream(self._reply(session, ticket, turn, whole=False)))
                await out.write(b"".join(events[written:]))
                written = len(events)
            elif time.monotonic() - spoke >= self.settings.keepalive_s:
                await out.write(dialect.keepalive)
            if text or time.monotonic() - spoke >= self.settings.keepalive_s:
                spoke = time.monotonic()
            await asyncio.wait({task}, timeout=_COALESCE_S)
        return written

    def _reply(self, session: Session, ticket: Ticket, turn: Turn, whole: bool = True) -> Reply:
        sent = () if ticket.live is None else tuple(ticket.live.sent)
        id = f"{session.id[:12]}-{turn.id}"
        return Reply(id, int(time.time()), ticket.request, ticket.context, turn, self.tokenizer, sent, whole)

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [self._card(self.settings.served_model)]})

    async def _model(self, request: web.Request) -> web.Response:
        return web.json_response(self._card(request.match_info["name"]))  # any name is served

    def _card(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": 0, "owned_by": "swerl", "max_model_len": self.settings.window_tokens}

    async def _alive(self, request: web.Request) -> web.Response:
        return web.json_response("I'm alive!")


def in_progress(turn_id: int, context: Context, text: str) -> Turn:
    """A turn that is still being sampled, as far as a dialect needs it; it is in no tree."""
    answer = Answer(text, None, (), "stop")
    return Turn(turn_id, context, Tokens(b"", 0), context.end, context.depth + 1, array("d"), array("q"), -1, answer)


def key_of(request: web.Request) -> str:
    if (key := request.match_info.get("key")) is not None:
        return key
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key", "")


async def read_json(request: web.Request, settings: GatewaySettings) -> tuple[dict, dict[str, str], int]:
    """Body, headers (lower case) and size. Raises ApiError 400, 408 and 413."""
    try:
        async with asyncio.timeout(settings.body_s):
            data = await request.read()
    except TimeoutError as error:
        raise ApiError(408, "request_timeout", f"The body did not arrive within {settings.body_s:g} s.", retry=True) from error
    except web.HTTPRequestEntityTooLarge as error:
        raise ApiError(413, "request_too_large", f"The body is larger than {settings.max_body_mb} MiB.") from error
    except web.RequestPayloadError as error:
        raise ApiError(400, "invalid_body", f"The body cannot be read: {error}") from error
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ApiError(400, "invalid_json", f"The body is no JSON: {error}") from error
    if not isinstance(body, dict):
        raise ApiError(400, "invalid_json", "The body must be a JSON object.")
    return body, {name.lower(): value for name, value in request.headers.items()}, len(data)


def refusal(dialect: Dialect, error: ApiError) -> web.Response:
    headers = {"x-should-retry": "true" if error.retry else "false"}
    return web.Response(status=error.status, body=orjson.dumps(dialect.error(error)), content_type="application/json", headers=headers)


@web.middleware
async def plain_refusals(request: web.Request, handler: Handler) -> web.StreamResponse:
    """What is not served is said as JSON. Codex asks for a WebSocket first and falls back to POST when it is told that there is none."""
    if request.headers.get("Upgrade", "").lower() == "websocket":
        return _refused(426, "WebSocket is not served here; use POST.")
    try:
        return await handler(request)
    except (web.HTTPNotFound, web.HTTPMethodNotAllowed) as error:
        return _refused(error.status, f"{request.method} is not served on this path.")


def _refused(status: int, message: str) -> web.Response:
    kind = "not_found_error" if status == 404 else "invalid_request_error"
    return web.json_response({"type": "error", "error": {"type": kind, "message": message, "code": None, "param": None}}, status=status)
