"""The gateway as one object: builds the parts, listens, announces itself, ends. `Gateway` is what ``__main__`` and the tests start."""

from __future__ import annotations

import asyncio
import secrets
import signal
import socket
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any

import psutil
from aiohttp import web

from swerl.errors import SwerlError, fail
from swerl.gateway.admin import AdminSurface
from swerl.gateway.admission import Admission
from swerl.gateway.capacity import follow
from swerl.gateway.chat import ChatRequest, Message
from swerl.gateway.engines.base import Engine, EngineSpec
from swerl.gateway.engines.bridge import BridgeEngine
from swerl.gateway.engines.vllm_http import VllmHttpEngine
from swerl.gateway.for_ever import for_ever
from swerl.gateway.gate import EngineGate
from swerl.gateway.history import ToolSets
from swerl.gateway.limits import settle_memory
from swerl.gateway.metrics import Metrics
from swerl.gateway.parsers import AnswerReader, VllmParsers
from swerl.gateway.placement import Placer
from swerl.gateway.server import PublicSurface
from swerl.gateway.session import Parts
from swerl.gateway.settings import GatewaySettings
from swerl.gateway.spans import Spans
from swerl.gateway.store import SessionStore
from swerl.gateway.template import ChatTemplate
from swerl.gateway.tree import Tokens
from swerl.record.events import EventLog
from swerl.record.services import announce

_WILDCARDS = ("0.0.0.0", "::")  # bound everywhere, reachable under a name only
_ADMIN_HOST = "127.0.0.1"
_START_CACHE_TOKENS = 4_000_000
_TELL_S = 30.0
_IDLE_S = 1200.0  # longer than an agent's tool call usually takes
_READ_BUFFER_BYTES = 1 << 20  # a long history arrives without pausing the connection five times


class Gateway:
    def __init__(self, settings: GatewaySettings, reader: AnswerReader | None = None):
        self.settings = settings
        settings.journal_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.executor = ThreadPoolExecutor(8, thread_name_prefix="gateway")
        self.template = ChatTemplate(settings.model_path, settings.chat_template)
        self.reader = reader or VllmParsers(settings.model_path, self.template, settings.tool_parser, settings.reasoning_parser)
        self.events = EventLog(settings.events_path, "gateway")
        self.metrics = Metrics()
        self.spans = Spans.from_environment()
        self.ended = asyncio.Event()
        self.on_parsers_ready: Callable[[], None] = lambda: None
        self.public_url = self.admin_url = ""
        self.admin_token = secrets.token_hex(32)
        self._runners: list[web.AppRunner] = []
        self._told: dict[str, Any] = {}  # the state that the newest event tells
        self.failure: SwerlError | None = None  # why it ended by itself

    async def start(self) -> None:
        """Listening and announced when it returns."""
        settings = self.settings
        admission = Admission(settings.max_in_flight, max(0, settings.kv_cache_tokens))
        self.gate = EngineGate(connect, settings.journal_dir / "engine.json", settings.max_hold_s, admission)
        placer = Placer(self.template, StartCache(self.template).tokens, settings.on_rewrite)
        self.store = SessionStore(Parts(settings, placer, self.gate, self.reader, ToolSets(), self.executor, self.events, self.metrics))
        public = self.public = PublicSurface(settings, self.store, self.template.tokenizer, self.metrics, self.spans)
        admin = AdminSurface(self.admin_token, self.store, self.gate, self.metrics, self.ended.set)
        self.admin_url = await self._listen(admin.app(), _ADMIN_HOST, 0)
        self.public_url = await self._listen(public.app(), settings.host, settings.port)
        if settings.host in _WILDCARDS:
            name = settings.advertised_host or first_address()
            self.public_url = self.public_url.replace(f"//{settings.host}:", f"//{name}:")
        if settings.engine_url is not None:
            await self.gate.register(EngineSpec("vllm", settings.engine_url.rstrip("/"), "", 0))
        self._tasks = [
            asyncio.create_task(self._load_parsers()),
            asyncio.create_task(for_ever(_IDLE_S / 10, self._forget_idle)),
            asyncio.create_task(for_ever(_TELL_S, self._tell)),
        ]
        if settings.kv_cache_tokens < 0:
            self._tasks.append(asyncio.create_task(follow(self.gate, admission, self.events)))
        if settings.services_path is not None:
            entry = {"public_url": self.public_url, "admin_url": self.admin_url, "admin_token": self.admin_token}
            announce(settings.services_path, "gateway", entry)
        self.events.emit("gateway.started", url=self.public_url)

    async def stop(self) -> None:
        """Sessions stay open on disk; clients lose their connections and find the next process."""
        for task in self._tasks:
            task.cancel()
        for runner in self._runners:
            await runner.shutdown()
        await self.store.suspend()
        for runner in self._runners:
            await runner.cleanup()
        if self.gate.engine is not None:
            await self.gate.engine.close()
        self.executor.shutdown(cancel_futures=True)
        self.spans.close()
        self.events.emit("gateway.stopped")
        self.events.close()

    async def _listen(self, app: web.Application, host: str, port: int) -> str:
        # handler_cancellation: a client that goes away ends its handler, which tells the session
        runner = web.AppRunner(
            app,
            handler_cancellation=True,
            access_log=None,
            shutdown_timeout=1.0,
            keepalive_timeout=self.settings.idle_connection_s,
            read_bufsize=_READ_BUFFER_BYTES,
        )
        await runner.setup()
        self._runners.append(runner)
        site = web.TCPSite(runner, host, port, backlog=4096)
        try:
            await site.start()
        except OSError as error:
            raise fail(
                "SWERL-G008",
                f"cannot listen on {host}:{port}: {error.strerror or error}",
                "end the process that holds the port, or choose another in infrastructure.litellm_port",
                f"{host}:{port}",
            ) from error
        bound = site._server.sockets[0].getsockname()  # type: ignore[union-attr]  # aiohttp has no public way to ask for a free port's number
        return f"http://{host}:{bound[1]}"

    async def _forget_idle(self) -> None:
        self.store.forget_idle(_IDLE_S)

    async def _tell(self) -> None:
        """Where it stands, as an event, whenever that has changed."""
        live = self.store.live()
        state = self.gate.stats()
        now = {
            "sessions": len(live),
            "working": sum(len(session.works) for session in live),
            "in_flight": state["in_flight"],
            "waiting": state["waiting"],
            "paused": int(state["paused"]),
            **{name: value for name, value in self.metrics.as_dict().items() if isinstance(value, int)},
        }
        if now != self._told:
            self.events.emit("gateway.stats", **now)
            self._told = now

    async def _load_parsers(self) -> None:
        try:
            await self.reader.ready()
        except SwerlError as error:
            self.failure = error
            self.ended.set()
            self.events.emit("gateway.parsers_failed", error=str(error))
        else:
            self.on_parsers_ready()
            self.events.emit("gateway.parsers_ready", tool_parser=self.reader.tool_parser)


def first_address() -> str:
    """The first IPv4 address of this host that others can reach; loopback where there is none."""
    addresses = [a.address for found in psutil.net_if_addrs().values() for a in found if a.family == socket.AF_INET]
    return next((address for address in addresses if not address.startswith("127.")), "127.0.0.1")


async def serve(settings: GatewaySettings, reader: AnswerReader | None = None) -> None:
    """Run a gateway until SIGTERM, SIGINT or the admin surface ends it. Raises SwerlError when it cannot serve."""
    gateway = Gateway(settings, reader)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, gateway.ended.set)
    gateway.on_parsers_ready = settle_memory
    await gateway.start()
    print(f"gateway: agents at {gateway.public_url}, admin at {gateway.admin_url}", flush=True)
    await gateway.ended.wait()
    await gateway.stop()
    if gateway.failure is not None:
        raise gateway.failure


class StartCache:
    """Tokens of the runs that start conversations. The samples of one task begin alike, so the cache is shared by all sessions."""

    def __init__(self, template: ChatTemplate, capacity_tokens: int = _START_CACHE_TOKENS):
        self._template, self._capacity = template, capacity_tokens
        self._cache: OrderedDict[bytes, Tokens] = OrderedDict()
        self._held = 0
        self._lock = Lock()  # placing may run in several threads

    def tokens(self, key: bytes, run: Sequence[Message], request: ChatRequest) -> Tokens:
        with self._lock:
            if (known := self._cache.get(key)) is not None:
                self._cache.move_to_end(key)
                return known
        made = Tokens.of(self._template.prompt(run, request.tools, **request.template_kwargs))
        with self._lock:
            if key not in self._cache:
                self._cache[key] = made
                self._held += made.count
                while self._held > self._capacity and len(self._cache) > 1:
                    self._held -= self._cache.popitem(last=False)[1].count
        return made


ENGINES: dict[str, Callable[[EngineSpec], Engine]] = {"bridge": BridgeEngine, "vllm": VllmHttpEngine}


def connect(spec: EngineSpec) -> Engine:
    return ENGINES[spec.kind](spec)
