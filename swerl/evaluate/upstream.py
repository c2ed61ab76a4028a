"""``python -m swerl.evaluate.upstream --run-dir R``: a gateway in front of an OpenAI-compatible server that somebody else runs.

Agents and runner find the surfaces they know (three dialects, sessions, admin); each turn becomes one ``POST /chat/completions`` there.
Such a server gives no token ids and no log-probabilities of what it sampled. What is recorded is one line a turn, messages and answer as
text, in ``gateway/<session>.jsonl``: enough to score, to read and to repeat, and nothing to train on. `recording` says so: no paths.

While the server is away or refuses for its own reasons (429, 401, 403, 404, 5xx) a turn waits and is asked again, and the wait is hold
time, which counts against no agent. The server's key is ``SWERL_UPSTREAM_API_KEY`` (or ``OPENAI_API_KEY``) of the environment; no other
process has it.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import signal
import sys
import time
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import click
import orjson
from aiohttp import web

from swerl.config import load_resolved
from swerl.errors import SwerlError
from swerl.evaluate import order
from swerl.gateway.admin import AdminSurface
from swerl.gateway.admission import Admission
from swerl.gateway.chat import Answer, ChatRequest, Message, ToolCall
from swerl.gateway.errors import ApiError, bad_request, context_overflow
from swerl.gateway.gate import EngineGate, Hold
from swerl.gateway.history import Histories
from swerl.gateway.metrics import Metrics
from swerl.gateway.server import PublicSurface
from swerl.gateway.settings import GatewaySettings, settings_from
from swerl.gateway.spans import Spans
from swerl.gateway.tree import Context, Tokens, Turn
from swerl.record.events import EventLog
from swerl.record.ledger import Ledger, objects
from swerl.record.rundir import RunDir
from swerl.record.services import announce

_ITS_OWN = (401, 403, 404, 408, 409, 425, 429, 500, 502, 503, 504, 529)  # the server's troubles, not this request's
_LAST_DELAY_S = 20.0
_AWAY = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, ConnectionError, asyncio.TimeoutError)


@dataclass(slots=True)
class Call:
    """A client's claim on a turn, in the place of the gateway's ticket."""

    request: ChatRequest
    context: Context
    task: asyncio.Task[Turn]
    live: None = None  # such a server is asked for whole turns


@dataclass(slots=True)
class UpstreamSession:
    """The part of the gateway's session that its surfaces use; the conversation lives with the client."""

    id: str
    trial: Mapping[str, Any]
    sampling: Mapping[str, Any]
    seed: int
    max_turns: int | None
    server: Upstream
    file: Path
    turns: int = 0
    closed: str | None = None
    marks: set[str] = field(default_factory=set)
    hold: Hold = field(default_factory=Hold)
    histories: Histories = field(default_factory=Histories)
    works: list[asyncio.Task[Turn]] = field(default_factory=list)
    answered: dict[bytes, Turn] = field(default_factory=dict)  # by request, for clients that ask again
    unanswered: set[bytes] = field(default_factory=set)  # requests that the server's own trouble left without an answer

    async def ticket(self, request: ChatRequest) -> Call:
        if self.max_turns is not None and self.turns >= self.max_turns:
            self.marks.add("max_turns")
            raise ApiError(400, "max_turns_exceeded", f"This session is limited to {self.max_turns} turns.")
        if request.want_logprobs or request.want_token_ids:
            raise bad_request("this evaluation's server gives no tokens and no log-probabilities", param="logprobs")
        body = self._body(request)
        key = hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).digest()
        if request.retry and key in self.answered:
            turn = self.answered[key]
            return Call(request, turn.parent, _done(turn))
        task = asyncio.create_task(self._sample(body, key), name=f"turn-{self.id[:8]}")
        self.works.append(task)
        return Call(request, Context(0, None, b"", Tokens(b"", 0), 0, 0), task)

    async def result(self, call: Call, timeout_s: float | None = None) -> Turn:
        try:
            turn = await asyncio.wait_for(asyncio.shield(call.task), timeout_s)
        except asyncio.CancelledError:
            if call.task.cancelled():
                raise ApiError(401, "session_closed", "The session was closed.") from None
            raise
        call.context = turn.parent
        return turn

    def delivered(self, call: Call) -> None: ...

    def lost(self, call: Call) -> None:
        """The turn goes on: a client that asks again within its patience gets the answer."""

    async def count_tokens(self, request: ChatRequest) -> int:
        """No tokeniser is known: four characters a token, which is what clients assume themselves."""
        return sum(len(m.text) for m in request.messages) // 4

    async def close(self, reason: str) -> dict[str, Any]:
        running = [task for task in self.works if not task.done()]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        if self.closed is None:
            self.closed = reason
            self.write({"k": "close", "reason": reason, "hold_s": round(self.hold.total_s, 3), "marks": sorted(self.marks)})
        return {
            "turns": self.turns,
            "hold_s": round(self.hold.total_s, 3),
            "aborted": len(running),
            "overflow": "overflow" in self.marks,
            "max_turns": "max_turns" in self.marks,
            "unanswered": len(self.unanswered),
        }

    def recording(self, which: str = "all") -> dict[str, Any]:
        return {
            "session": self.id,
            "trial": self.trial,
            "sampling": self.sampling,
            "status": "open" if self.closed is None else f"closed: {self.closed}",
            "turns": self.turns,
            "hold_s": round(self.hold.total_s, 3),
            "overflow": "overflow" in self.marks,
            "max_turns": "max_turns" in self.marks,
            "tokens": False,
            "paths": [],
        }

    def write(self, line: Mapping[str, Any]) -> None:
        ledger = Ledger(self.file, mode=0o600)
        try:
            ledger.append(line, sync=True)
        finally:
            ledger.close()

    def _body(self, request: ChatRequest) -> dict[str, Any]:
        wanted = [v for v in (request.max_tokens, self.sampling.get("max_tokens"), self.server.settings.response_tokens) if v]
        body: dict[str, Any] = {"model": self.server.model, "messages": [_plain(m) for m in request.messages]}
        body |= {name: self.sampling[name] for name in ("temperature", "top_p") if self.sampling.get(name) is not None}
        if self.sampling.get("top_k", -1) > 0:
            body["top_k"] = self.sampling["top_k"]
        body |= {"max_tokens": min(wanted)} if wanted else {}
        if request.tools:
            body |= {"tools": list(request.tools), "tool_choice": request.tool_choice}
        if request.stop:
            body["stop"] = list(request.stop)
        digest = hashlib.sha256(orjson.dumps([self.seed, body])).digest()
        return {**body, "seed": int.from_bytes(digest[:4]) >> 1}

    async def _sample(self, body: dict[str, Any], key: bytes) -> Turn:
        try:
            said = await self.server.ask(body, self.hold)
        except ApiError as error:
            if error.code == "context_length_exceeded":
                self.marks.add("overflow")
            if error.status >= 500:
                self.unanswered.add(key)
            raise
        self.unanswered.discard(key)
        choice, usage = said["choices"][0], said.get("usage") or {}
        self.turns += 1
        self.write({"k": "turn", "time": time.time(), "request": body, "message": choice["message"], "usage": usage})
        turn = _turn(self.turns, choice, usage)
        self.answered = {key: turn}
        return turn


class Upstream:
    """The server behind, and the sessions before it. Sessions are read back from their files by a restarted process."""

    def __init__(self, settings: GatewaySettings, url: str, model: str, api_key: str):
        self.settings, self.model = settings, model
        self._url, self._headers = url, {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._sessions: dict[str, UpstreamSession] = {}
        self._http: aiohttp.ClientSession | None = None

    async def open(self, trial: Mapping[str, Any], sampling: Mapping[str, Any], seed: int | None, max_turns: int | None):
        key = secrets.token_urlsafe(32)
        session = self._made(_id(key), trial, sampling, seed if seed is not None else secrets.randbits(32), max_turns)
        session.write({"k": "open", "trial": trial, "sampling": sampling, "seed": session.seed, "max_turns": max_turns})
        return session, key

    async def by_key(self, key: str) -> UpstreamSession:
        session = await self.by_id(_id(key)) if key else None
        if session is None or session.closed is not None:
            raise ApiError(401, "invalid_api_key", "No open session has this key.")
        return session

    async def by_id(self, id: str) -> UpstreamSession | None:
        if (known := self._sessions.get(id)) is not None:
            return known
        file = self._file(id)
        if not id.isalnum() or not file.is_file():
            return None
        lines = list(objects(file))
        if not lines:
            return None
        first = lines[0]
        session = self._made(id, first["trial"], first["sampling"], first["seed"], first["max_turns"])
        session.turns = sum(line["k"] == "turn" for line in lines)
        for line in lines:
            if line["k"] == "close":
                session.closed, session.hold, session.marks = line["reason"], Hold(line["hold_s"]), set(line["marks"])
        return session

    async def close(self, session: UpstreamSession, reason: str) -> dict[str, Any]:
        return await session.close(reason)

    def live(self) -> list[UpstreamSession]:
        return [session for session in self._sessions.values() if session.closed is None]

    async def ask(self, body: Mapping[str, Any], held: Hold) -> Mapping[str, Any]:
        """One turn. Raises ApiError: context_length_exceeded, the server's refusal of the request itself, or 503 after ``max_hold_s``."""
        until, delay_s = time.monotonic() + self.settings.max_hold_s, 0.5
        while True:
            try:
                async with self._client().post(f"{self._url}/chat/completions", data=orjson.dumps(body)) as answer:
                    data = await answer.read()
                    if answer.status == 200:
                        return _checked(data)
                    reason = f"{answer.status} {data[:300].decode(errors='replace')}"
                    if answer.status not in _ITS_OWN:
                        raise _refusal(answer.status, data)
            except _AWAY as error:
                reason = f"{type(error).__name__}: {error}"
            if time.monotonic() > until:
                raise ApiError(503, "engine_away", f"The server has been away for {self.settings.max_hold_s:.0f} s ({reason}).", retry=True)
            held.begin()
            try:
                await asyncio.sleep(delay_s)
            finally:
                held.end()
            delay_s = min(2 * delay_s, _LAST_DELAY_S)

    async def shut(self) -> None:
        await asyncio.gather(*(task for s in self.live() for task in s.works if task.cancel()), return_exceptions=True)
        if self._http is not None:
            await self._http.close()

    def _made(self, id: str, trial: Any, sampling: Any, seed: int, max_turns: int | None) -> UpstreamSession:
        return self._sessions.setdefault(id, UpstreamSession(id, trial, sampling, seed, max_turns, self, self._file(id)))

    def _file(self, id: str) -> Path:
        return self.settings.journal_dir / f"{id}.jsonl"

    def _client(self) -> aiohttp.ClientSession:
        if self._http is None:
            headers = {"Content-Type": "application/json", **self._headers}
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=1800)
            self._http = aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(limit=0), timeout=timeout)
        return self._http


def _id(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:32]


def _done(turn: Turn) -> asyncio.Task[Turn]:
    async def known() -> Turn:
        return turn

    return asyncio.create_task(known())


def _plain(message: Message) -> dict[str, Any]:
    plain: dict[str, Any] = {"role": message.role, "content": message.text}
    if message.tool_calls:
        calls = [{"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}} for c in message.tool_calls]
        plain |= {"tool_calls": calls, "content": message.text or None}
    return {**plain, **({"tool_call_id": message.tool_call_id} if message.tool_call_id is not None else {})}


def _turn(number: int, choice: Mapping[str, Any], usage: Mapping[str, Any]) -> Turn:
    message = choice["message"]
    calls = tuple(
        ToolCall(str(c.get("id") or f"call-{number}-{i}"), c["function"]["name"], c["function"].get("arguments") or "")
        for i, c in enumerate(message.get("tool_calls") or ())
    )
    finish = "tool_calls" if calls else "length" if choice.get("finish_reason") == "length" else "stop"
    answer = Answer(message.get("content") or "", message.get("reasoning_content") or message.get("reasoning"), calls, finish)
    prompt, sampled = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
    context = Context(2 * number, None, b"", Tokens(b"", prompt), prompt, number - 1)
    return Turn(2 * number + 1, context, Tokens(b"", sampled), prompt + sampled, number, array("d"), array("q"), 0, answer)


def _checked(data: bytes) -> Mapping[str, Any]:
    try:
        said = orjson.loads(data)
        said["choices"][0]["message"]["role"]
    except (orjson.JSONDecodeError, KeyError, IndexError, TypeError) as error:
        raise ConnectionError(f"its answer is no chat completion: {error!r}") from error
    return said


def _refusal(status: int, data: bytes) -> ApiError:
    text = data[:1000].decode(errors="replace")
    if "context_length_exceeded" in text or "maximum context length" in text:
        error = context_overflow(0, 0)
        return ApiError(error.status, error.code, "The server says that the conversation is longer than its model's context.")
    return ApiError(status, "upstream_refused", f"The server refused the request: {text[:300]}")


async def serve(settings: GatewaySettings, upstream: Upstream) -> None:
    """Serve until told to end."""
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    settings.journal_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    events, metrics, token = EventLog(settings.events_path, "gateway"), Metrics(), secrets.token_hex(32)
    gate = EngineGate(lambda spec: None, settings.journal_dir / "engine.json", settings.max_hold_s, Admission(1))  # type: ignore[arg-type, return-value]
    public = PublicSurface(settings, upstream, None, metrics, Spans())  # type: ignore[arg-type]  # the parts of a session store that it uses
    admin = AdminSurface(token, upstream, gate, metrics, ended.set)  # type: ignore[arg-type]
    urls, runners = [], []
    for app, host, port in ((public.app(), settings.host, settings.port), (admin.app(), "127.0.0.1", 0)):
        runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        runners.append(runner)
        site = web.TCPSite(runner, host, port, backlog=4096)
        await site.start()
        urls.append(f"http://{host}:{site._server.sockets[0].getsockname()[1]}")  # type: ignore[union-attr]
    if settings.services_path is not None:
        announce(settings.services_path, "gateway", {"public_url": urls[0], "admin_url": urls[1], "admin_token": token})
    events.emit("gateway.started", url=urls[0], upstream=upstream.model)
    await ended.wait()
    await upstream.shut()
    for runner in runners:
        await runner.cleanup()
    events.emit("gateway.stopped")
    events.close()


@click.command(help=__doc__)
@click.option("--run-dir", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
def main(run_dir: Path) -> None:
    run = RunDir.at(run_dir)
    asked = order.read(run)
    assert asked is not None and asked.upstream is not None, "the command writes the order before it starts a process"
    config = load_resolved(run.resolved)
    settings = settings_from(config, run.root)
    key = os.environ.get("SWERL_UPSTREAM_API_KEY") or os.environ.get("OPENAI_API_KEY") or ""
    model = asked.upstream_model or config.model.served_model_name
    try:
        asyncio.run(serve(settings, Upstream(settings, asked.upstream, model, key)))
    except SwerlError as error:
        print(error, file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
