"""verl's vLLM replica with its HTTP server closed: its health and its metrics can be read, on loopback where that is enough.

verl starts vLLM's whole HTTP surface beside every engine (completions, loading of adapters, scaling, pausing) on the node's own address and
without a key. Of all this the bridge asks for `OPEN`, everything else goes through Ray. Nothing more is answered, whoever asks; and in a
cluster of one node the server listens on loopback. Elsewhere it keeps the node's address, because the bridge may be on another.
"""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import ray
from verl.workers.rollout.replica import RolloutReplicaRegistry
from verl.workers.rollout.vllm_rollout.vllm_async_server import vLLMHttpServer, vLLMReplica

LOOPBACK = "127.0.0.1"
OPEN = ("/health", "/metrics", "/metrics/")

Scope = MutableMapping[str, Any]
Send = Callable[[Scope], Awaitable[None]]


class Closed:
    """ASGI middleware: GET of `OPEN` goes on, every other request is 404, every WebSocket is refused."""

    def __init__(self, app: Callable[..., Awaitable[None]]):
        self.app = app

    async def __call__(self, scope: Scope, receive: Callable[[], Awaitable[Scope]], send: Send) -> None:
        if scope["type"] == "lifespan" or (scope["type"] == "http" and scope["method"] == "GET" and scope["path"] in OPEN):
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await send({"type": "http.response.start", "status": 404, "headers": []})
            await send({"type": "http.response.body", "body": b""})
        else:
            await send({"type": "websocket.close", "code": 1008})


class LocalServer(vLLMHttpServer):
    async def run_server(self, args: argparse.Namespace) -> None:
        """verl's, which reads the address for nothing but to listen there. vLLM puts the last middleware named outermost of these."""
        args.middleware = [*(args.middleware or []), f"{__name__}.{Closed.__name__}"]
        if sum(node["Alive"] for node in ray.nodes()) == 1:
            self._server_address = LOOPBACK
        await super().run_server(args)


class LocalReplica(vLLMReplica):
    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.server_class = ray.remote(LocalServer)


def install() -> None:
    """Have verl take it wherever it asks for ``vllm``, in this process."""
    RolloutReplicaRegistry.register("vllm", lambda: LocalReplica)
