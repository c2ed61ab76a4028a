"""An engine that answers from a script: the bridge's protocol without a model, for tests and benchmarks. Needs no torch.

``python -m swerl.gateway.engines.scripted --port P --script module:function [--tokenizer MODEL_DIR] [--register SERVICES_JSON]``

A script is a function of a `ScriptTurn` that returns what the policy says: text (encoded with the tokenizer, plus the end-of-turn token) or
a `ScriptReply` for control over tokens, delay and finish. Log-probabilities are a function of token and position
(`scripted_logprob`), so that a test can tell whether each token kept its own.

``POST /generate`` {"epoch","request_id","session","prompt_ids","sampling"}
    -> {"token_ids","logprobs","versions","finish_reason","cached_tokens"}
``POST /abort``    {"request_ids"} or {"session"}: these answer at once with what they have, finish_reason "aborted"
``POST /cache``    -> {"kv_cache_tokens"}, None unless it was given
``POST /control``  {"version"} {"away"} {"epoch"}: what a test changes while it runs
"""

from __future__ import annotations

import asyncio
import importlib
import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import orjson
from aiohttp import web

from swerl.gateway.tokenizer import Tokenizer, load_tokenizer, stop_token_ids


@dataclass(frozen=True, slots=True)
class ScriptTurn:
    """``text`` is the decoded prompt when there is a tokenizer; ``turn`` counts this session's finished requests from 0."""

    prompt_ids: Sequence[int]
    sampling: dict[str, Any]
    session: str
    request_id: str
    turn: int
    text: str | None


@dataclass(frozen=True, slots=True)
class ScriptReply:
    """``token_s`` is the time a token takes, ``delay_s`` the time before the first."""

    text: str | None = None
    token_ids: Sequence[int] | None = None
    end: bool = True
    delay_s: float = 0.0
    token_s: float = 0.0


Script = Callable[[ScriptTurn], str | ScriptReply]


def scripted_logprob(token_id: int, position: int) -> float:
    """``position`` counts from the start of the prompt."""
    return -((token_id * 31 + position * 17) % 1000 + 1) / 1000


@dataclass(slots=True)
class _Running:
    session: str
    aborted: asyncio.Event = field(default_factory=asyncio.Event)


class ScriptedEngine:
    """Start with `start`; ``url``, ``token`` and ``epoch`` are what a gateway registers. ``requests`` keeps every body it was given."""

    def __init__(self, script: Script, model_path: Path | None = None, *, epoch: int = 1, version: int = 0, keep_requests: bool = True):
        self.script, self.epoch, self.version, self.away = script, epoch, version, False
        self.tokenizer: Tokenizer | None = None if model_path is None else load_tokenizer(model_path)
        self.stop_ids = sorted(stop_token_ids(model_path, self.tokenizer)) if model_path and self.tokenizer else []
        self.token = secrets.token_hex(16)
        self.url = ""
        self.kv_cache_tokens: int | None = None
        self.requests: list[dict[str, Any]] = []
        self._keep_requests = keep_requests
        self._running: dict[str, _Running] = {}
        self._turns: Counter[str] = Counter()
        self._runner: web.AppRunner | None = None

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        app = web.Application(client_max_size=1 << 30)
        app.add_routes([web.post("/generate", self._generate), web.post("/abort", self._abort), web.post("/cache", self._cache)])
        app.add_routes([web.post("/control", self._control)])
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.05)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port, backlog=4096)
        await site.start()
        self.url = f"http://{host}:{site._server.sockets[0].getsockname()[1]}"  # type: ignore[union-attr]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    def registration(self) -> dict[str, Any]:
        """The body of the gateway's ``POST /engine``."""
        return {"kind": "bridge", "url": self.url, "token": self.token, "epoch": self.epoch, "version": self.version}

    async def _generate(self, request: web.Request) -> web.Response:
        body = await self._checked(request)
        if self._keep_requests:
            self.requests.append(body)
        prompt, session = body["prompt_ids"], body["session"]
        text = self.tokenizer.decode(prompt, skip_special=False) if self.tokenizer is not None else None
        turn = ScriptTurn(prompt, body["sampling"], session, body["request_id"], self._turns[session], text)
        said = self.script(turn)
        reply = ScriptReply(text=said) if isinstance(said, str) else said
        wanted = self._tokens(reply)
        limit = int(body["sampling"]["max_tokens"])
        running = self._running[body["request_id"]] = _Running(session)
        try:
            done, version = await self._sample(wanted[:limit], reply, running)
        finally:
            self._running.pop(body["request_id"], None)
        finish = "aborted" if len(done) < len(wanted[:limit]) else "length" if limit < len(wanted) or not reply.end else "stop"
        if finish != "aborted":
            self._turns[session] += 1
        logprobs = [scripted_logprob(t, len(prompt) + i) for i, t in enumerate(done)]
        answer = {"token_ids": done, "logprobs": logprobs, "versions": [version] * len(done), "finish_reason": finish, "cached_tokens": 0}
        return _answer(answer)

    async def _sample(self, wanted: list[int], reply: ScriptReply, running: _Running) -> tuple[list[int], int]:
        version = self.version
        if reply.delay_s and await _set_within(running.aborted, reply.delay_s):
            return [], version
        if not reply.token_s:
            return wanted, version
        done: list[int] = []
        for token in wanted:
            if await _set_within(running.aborted, reply.token_s):
                break
            done.append(token)
        return done, version

    def _tokens(self, reply: ScriptReply) -> list[int]:
        if reply.token_ids is not None:
            return list(reply.token_ids)
        if self.tokenizer is None or reply.text is None:
            raise web.HTTPInternalServerError(text="a script that answers with text needs --tokenizer")
        return [*self.tokenizer.encode(reply.text), *(self.stop_ids[-1:] if reply.end else [])]

    async def _abort(self, request: web.Request) -> web.Response:
        body = await self._checked(request)
        chosen = [r for id, r in self._running.items() if id in body.get("request_ids", ()) or r.session == body.get("session")]
        for running in chosen:
            running.aborted.set()
        return _answer({"aborted": len(chosen)})

    async def _cache(self, request: web.Request) -> web.Response:
        await self._checked(request)
        return _answer({"kv_cache_tokens": self.kv_cache_tokens})

    async def _control(self, request: web.Request) -> web.Response:
        body = orjson.loads(await request.read())
        self.version, self.away, self.epoch = (body.get(name, getattr(self, name)) for name in ("version", "away", "epoch"))
        return _answer({"version": self.version, "away": self.away, "epoch": self.epoch})

    async def _checked(self, request: web.Request) -> dict[str, Any]:
        if not secrets.compare_digest(request.headers.get("Authorization", ""), f"Bearer {self.token}"):
            raise web.HTTPUnauthorized
        if self.away:
            raise web.HTTPServiceUnavailable
        body = orjson.loads(await request.read())
        if body.get("epoch", self.epoch) != self.epoch:
            raise web.HTTPConflict
        return body


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return False
    return True


def _answer(value: Any) -> web.Response:
    return web.Response(body=orjson.dumps(value), content_type="application/json")


def load_script(reference: str) -> Script:
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


async def register(engine: ScriptedEngine, services: Path) -> None:
    """Tell the gateway that ``services`` (services.json) names where the engine is."""
    import aiohttp

    gateway = orjson.loads(services.read_bytes())["gateway"]
    headers = {"Authorization": f"Bearer {gateway['admin_token']}"}
    async with (
        aiohttp.ClientSession() as client,
        client.post(f"{gateway['admin_url']}/engine", json=engine.registration(), headers=headers) as response,
    ):
        response.raise_for_status()


@click.command(help=__doc__)
@click.option("--host", default="127.0.0.1")
@click.option("--port", default=0)
@click.option("--script", required=True, help="module:function")
@click.option("--tokenizer", type=click.Path(exists=True, path_type=Path), help="Model directory, for scripts that answer with text.")
@click.option("--token", help="The token it wants; random when not given.")
@click.option("--epoch", default=1)
@click.option("--version", default=0)
@click.option("--register", "services", type=click.Path(exists=True, path_type=Path), help="services.json of a run: register there.")
def main(
    host: str, port: int, script: str, tokenizer: Path | None, token: str | None, epoch: int, version: int, services: Path | None
) -> None:
    async def serve() -> None:
        engine = ScriptedEngine(load_script(script), tokenizer, epoch=epoch, version=version, keep_requests=False)
        engine.token = token or engine.token
        await engine.start(host, port)
        if services is not None:
            await register(engine, services)
        print(orjson.dumps(engine.registration()).decode(), flush=True)
        await asyncio.Event().wait()

    asyncio.run(serve())


if __name__ == "__main__":
    main()
