"""verl's vLLM replica with its HTTP server on loopback.

verl starts vLLM's whole HTTP surface beside every engine (completions, loading of adapters, scaling) on the node's own address and without
a key. Nothing here asks it: the gateway's bridge speaks to the engine through Ray. On loopback only programs of the same node reach it. The
address that verl keeps as the replica's name stays the node's, with the server's port.
"""

from __future__ import annotations

import argparse
from typing import Any

import ray
from verl.workers.rollout.replica import RolloutReplicaRegistry
from verl.workers.rollout.vllm_rollout.vllm_async_server import vLLMHttpServer, vLLMReplica

LOOPBACK = "127.0.0.1"


class LocalServer(vLLMHttpServer):
    async def run_server(self, args: argparse.Namespace) -> None:
        """verl's; its last step, the only one that reads the address, serves there."""
        address, self._server_address = self._server_address, LOOPBACK
        try:
            await super().run_server(args)
        finally:
            self._server_address = address


class LocalReplica(vLLMReplica):
    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.server_class = ray.remote(LocalServer)


def install() -> None:
    """Have verl take it wherever it asks for ``vllm``, in this process."""
    RolloutReplicaRegistry.register("vllm", lambda: LocalReplica)
