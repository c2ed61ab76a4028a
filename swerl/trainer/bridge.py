"""The engine bridge: verl's rollout engine as a token-in, token-out HTTP endpoint for the gateway.

One bridge per start of the trainer, a Ray actor on the driver's node. It speaks verl's own server client, with four differences that
exact capture needs: it names each engine request, so that one request can be aborted alone and without clearing the prefix cache; it
returns every piece as it was sampled, with its version of the weights, instead of merging pieces across a weight update; it tells "stop"
from "length"; and it admits at most ``max_num_seqs`` requests per replica, so that none waits inside the replica's actor, where parked
requests can block a weight update. The rest wait here and can be aborted while they wait.

``POST /generate``  {"epoch","request_id","session","prompt_ids","sampling"}, with sampling of {"temperature","top_p","top_k","max_tokens",
    "seed","stop","stop_token_ids"}, -> {"token_ids","logprobs","versions","finish_reason": "stop" | "length" | "aborted","cached_tokens"}
``POST /abort``     {"request_ids"} -> {"aborted": n}; the aborted requests answer with what they had.
``POST /cache``     -> {"kv_cache_tokens"}: what the replicas' KV caches hold together, null when one of them does not say.
401 wrong token, 409 stale epoch, 503 a replica is dead: the engine is away until the trainer has been started again.

Every replica's own server is asked for its health every two seconds. A replica that says it is dead, does not listen any more, or whose
actor is gone is an ``engine.died`` event; all requests in flight are then answered with 503, and the trainer (`replay.Watch`) ends.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import time
from collections import Counter, defaultdict
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from aiohttp import web
from ray.exceptions import RayActorError, RayError
from verl.workers.rollout.llm_server import LLMServerClient

from swerl.gateway.engines.metrics_text import tokens_in
from swerl.record.events import EventLog

_ABORT_PATIENCE_S = 5.0
_HEALTH_S = 2.0
_ANSWER_S = 10.0
_DEAF = 3  # health checks in a row to which nobody listens
_METRICS_S = 10.0
_SAMPLING_KEYS = ("temperature", "top_p", "top_k", "seed", "stop", "stop_token_ids")


class BridgeClient(LLMServerClient):
    """verl's client, one piece at a time. Obtained through the trainer's ``get_llm_client``; pickled into the bridge actor."""

    async def piece(self, *, session: str, request_id: str, prompt_ids: list[int], sampling: dict[str, Any], work: PendingRequest) -> Any:
        """One engine request, from admission to its end. Returns verl's TokenOutput."""
        server_id, server = await self._acquire_server(session, prompt_ids=prompt_ids, sampling_params=sampling)
        try:
            async with work.slots[server_id]:
                if work.aborted.is_set():
                    return None
                work.server, work.server_id = server, server_id
                return await server.generate.remote(request_id=request_id, prompt_ids=prompt_ids, sampling_params=sampling)
        finally:
            self._release_server(server_id, request_id=session)

    async def addresses(self) -> list[str]:
        """``host:port`` of every replica's own server; verl names its replicas so."""
        return list(await self._load_balancer.get_all_servers.remote())


class PendingRequest:
    """A request the bridge knows: waiting for a slot (``server`` is None) or in the engine."""

    def __init__(self, slots: defaultdict[str, asyncio.Semaphore]):
        self.slots = slots
        self.server: Any = None
        self.server_id = ""
        self.aborted = asyncio.Event()


class EngineBridge:
    """The actor's body; `manager` wraps it with ``ray.remote``. ``max_num_seqs`` is per replica; ``eos_token_ids`` end a turn."""

    def __init__(self, client: BridgeClient, epoch: int, max_num_seqs: int, eos_token_ids: list[int], bind_host: str, events: Path):
        self.client, self.epoch, self.bind_host = client, epoch, bind_host
        self.eos_token_ids = frozenset(eos_token_ids)
        self.token = secrets.token_hex(32)
        self.slots: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(max_num_seqs))
        self.pending: dict[str, PendingRequest] = {}
        self.runner: web.AppRunner | None = None
        self.events = EventLog(events, "bridge")
        self.dead: asyncio.Future[str] | None = None  # done with the cause once a replica is dead
        self.deaf: Counter[str] = Counter()
        self.watching: asyncio.Task[None] | None = None

    async def start(self) -> dict[str, Any]:
        """Listen on a free port of ``bind_host`` and return {"url", "token", "epoch"}."""
        app = web.Application(client_max_size=256 << 20)
        app.add_routes([web.post("/generate", self._generate), web.post("/abort", self._abort), web.post("/cache", self._cache)])
        # handler_cancellation: a gateway that goes away ends its requests in the engine instead of leaving them to run
        self.runner = web.AppRunner(app, handler_cancellation=True, access_log=None)
        await self.runner.setup()
        listener = socket.socket()
        listener.bind((self.bind_host, 0))
        await web.SockSite(self.runner, listener).start()
        self.dead = asyncio.get_running_loop().create_future()
        self.watching = asyncio.create_task(self._watch(), name="engine-health")
        return {"url": f"http://{self.bind_host}:{listener.getsockname()[1]}", "token": self.token, "epoch": self.epoch}

    async def why_dead(self) -> str | None:
        return self.dead.result() if self.dead is not None and self.dead.done() else None

    async def stop(self) -> None:
        if self.watching is not None:
            self.watching.cancel()
        await self._abort_requests(list(self.pending))
        if self.runner is not None:
            await self.runner.cleanup()
            self.runner = None

    async def _generate(self, request: web.Request) -> web.Response:
        body = await self._authorised(request)
        request_id, prompt_ids = body["request_id"], body["prompt_ids"]
        if request_id in self.pending:
            return web.json_response({"error": f"request {request_id} is running already"}, status=409)
        sampling = {key: body["sampling"][key] for key in _SAMPLING_KEYS if body["sampling"].get(key) is not None}
        max_tokens = int(body["sampling"]["max_tokens"])
        work = self.pending[request_id] = PendingRequest(self.slots)
        sampling |= {"max_tokens": max_tokens, "logprobs": True}
        asked = self.client.piece(session=body["session"], request_id=request_id, prompt_ids=prompt_ids, sampling=sampling, work=work)
        try:
            output = await self._unless_dead(asked, work)
        except asyncio.CancelledError:
            await self._abort_requests([request_id])
            raise
        finally:
            self.pending.pop(request_id, None)
        return web.json_response(self._answer(output, max_tokens), dumps=lambda value: orjson.dumps(value).decode())

    async def _unless_dead(self, asked: Coroutine[Any, Any, Any], work: PendingRequest) -> Any:
        """What ``asked`` gives. HTTP 503 once a replica is dead, also for what waits or is being sampled then."""
        assert self.dead is not None
        piece = asyncio.ensure_future(asked)
        try:
            await asyncio.wait({piece, self.dead}, return_when=asyncio.FIRST_COMPLETED)
            if piece.done() and (error := piece.exception()) is not None:
                await self._suspect(work.server_id, error)
            if self.dead.done():
                raise web.HTTPServiceUnavailable(text=self.dead.result())
            return piece.result()
        finally:
            piece.cancel()

    async def _suspect(self, replica: str, error: BaseException) -> None:
        """A request has failed: was it the request, or is its replica dead? Errors that say so decide at once, else its server is asked."""
        if isinstance(error, RayActorError) or type(getattr(error, "cause", error)).__name__ == "EngineDeadError":
            self._died(replica, f"{type(error).__name__}: {str(error).strip().splitlines()[-1]}")
        elif replica:
            await self._examine(replica)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_HEALTH_S)
            try:
                replicas = await self.client.addresses()
            except RayActorError as error:  # the load balancer: nothing can be asked any more
                self._died("load balancer", f"{type(error).__name__}: {error}")
                return
            except RayError:
                continue  # it is asked again in a moment
            await asyncio.gather(*(self._examine(replica) for replica in replicas))

    async def _examine(self, replica: str) -> None:
        """Ask a replica's server how it is. One that is busy may answer late; one that does not listen time after time is dead."""
        health = await _health(replica)
        self.deaf[replica] = self.deaf[replica] + 1 if health is None else 0
        if health == 503:
            self._died(replica, "its server says that the engine is dead")
        elif self.deaf[replica] >= _DEAF:
            self._died(replica, "its server does not listen any more")

    def _died(self, replica: str, cause: str) -> None:
        assert self.dead is not None
        if not self.dead.done():
            self.dead.set_result(f"replica {replica}: {cause}")
            self.events.emit("engine.died", durable=True, replica=replica, cause=cause, in_flight=len(self.pending))

    def _answer(self, output: Any, max_tokens: int) -> dict[str, Any]:
        if output is None or (not output.token_ids and output.stop_reason == "aborted"):
            return {"token_ids": [], "logprobs": [], "versions": [], "finish_reason": "aborted", "cached_tokens": 0}
        tokens = list(output.token_ids)
        if output.log_probs is None or len(output.log_probs) != len(tokens):
            raise RuntimeError("the engine returned tokens without their log-probabilities")
        version = output.extra_fields["global_steps"]
        if output.stop_reason == "aborted":
            finish = "aborted"
        elif len(tokens) >= max_tokens and tokens[-1] not in self.eos_token_ids:
            finish = "length"  # verl reports both as "completed"
        else:
            finish = "stop"
        return {
            "token_ids": tokens,
            "logprobs": [float(x) for x in output.log_probs],
            "versions": [int(version)] * len(tokens),
            "finish_reason": finish,
            "cached_tokens": int(output.extra_fields.get("num_cached_tokens") or 0),
        }

    async def _abort(self, request: web.Request) -> web.Response:
        body = await self._authorised(request)
        return web.json_response({"aborted": await self._abort_requests(body.get("request_ids", []))})

    async def _cache(self, request: web.Request) -> web.Response:
        await self._authorised(request)
        held = await asyncio.gather(*(_cache_tokens(address) for address in await self.client.addresses()))
        return web.json_response({"kv_cache_tokens": None if None in held or not held else sum(held)})

    async def _abort_requests(self, request_ids: list[str]) -> int:
        """Abort what is pending among ``request_ids`` and say how many were; the prefix cache keeps what it has."""
        known = [(request_id, self.pending[request_id]) for request_id in request_ids if request_id in self.pending]
        for _, work in known:
            work.aborted.set()
        await asyncio.gather(*(self._abort_one(request_id, work) for request_id, work in known))
        return len(known)

    async def _abort_one(self, request_id: str, work: PendingRequest) -> None:
        """Abort until the engine knows the request: one that is on its way to the engine is not found there yet."""
        deadline = time.monotonic() + _ABORT_PATIENCE_S
        while work.server is not None and time.monotonic() < deadline and await self.why_dead() is None:
            try:
                answer = await work.server.abort_request.remote(request_id, reset_prefix_cache=False)
            except Exception as error:  # whatever Ray or the engine raises: the request itself tells its client how it ended
                await self._suspect(work.server_id, error)
                return
            if answer.get("aborted") or self.pending.get(request_id) is not work:
                return
            await asyncio.sleep(0.05)

    async def _authorised(self, request: web.Request) -> dict[str, Any]:
        if not secrets.compare_digest(request.headers.get("Authorization", ""), f"Bearer {self.token}"):
            raise web.HTTPUnauthorized()
        body = orjson.loads(await request.read())
        if body.get("epoch", self.epoch) != self.epoch:
            raise web.HTTPConflict(text=f"this engine is of epoch {self.epoch}")
        return body


async def _health(address: str) -> int | None:
    """The status of the server's own health check; None where nobody listens, 0 where no answer comes in time."""
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_ANSWER_S)) as client,
            client.get(f"http://{address}/health") as response,
        ):
            return response.status
    except TimeoutError:
        return 0
    except (aiohttp.ClientError, OSError):
        return None


async def _cache_tokens(address: str) -> int | None:
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_METRICS_S)) as client,
            client.get(f"http://{address}/metrics") as response,
        ):
            return tokens_in(await response.text()) if response.status == 200 else None
    except (TimeoutError, aiohttp.ClientError):
        return None  # the gateway takes it as "does not say"
