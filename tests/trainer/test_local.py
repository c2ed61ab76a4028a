"""vLLM's HTTP surface, which has no key, is at no address of a network."""

from __future__ import annotations

import asyncio
import inspect
import socket

import pytest

pytest.importorskip("verl")
pytest.importorskip("vllm")
from fastapi import FastAPI
from verl.workers.rollout import replica
from verl.workers.rollout.utils import run_uvicorn
from verl.workers.rollout.vllm_rollout.vllm_async_server import vLLMHttpServer

from swerl.trainer import local


def test_verl_takes_it_for_vllm(monkeypatch):
    monkeypatch.setattr(replica.RolloutReplicaRegistry, "_registry", dict(replica.RolloutReplicaRegistry._registry))
    local.install()
    assert replica.get_rollout_replica_class("vllm") is local.LocalReplica and issubclass(local.LocalServer, vLLMHttpServer)


def test_the_address_is_read_where_it_listens_and_nowhere_else():
    source = inspect.getsource(vLLMHttpServer.run_server)
    assert source.count("_server_address") == 1 and "run_uvicorn(app, args, self._server_address)" in source


def test_it_listens_on_loopback_and_keeps_its_name(monkeypatch):
    async def serve(self, args):
        self._server_port, self._server_task = await run_uvicorn(FastAPI(), args, self._server_address)

    monkeypatch.setattr(vLLMHttpServer, "run_server", serve)
    server = local.LocalServer.__new__(local.LocalServer)
    server._server_address = "0.0.0.0"  # what would listen everywhere

    async def main():
        await server.run_server(None)
        try:
            assert server.get_server_address() == ("0.0.0.0", server._server_port)
            socket.create_connection(("127.0.0.1", server._server_port), 5).close()
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.2", server._server_port), 5)
        finally:
            server._server_task.cancel()
            await asyncio.gather(server._server_task, return_exceptions=True)

    asyncio.run(main())


def test_a_server_that_does_not_start_keeps_its_name(monkeypatch):
    async def serve(self, args):
        raise RuntimeError("no port")

    monkeypatch.setattr(vLLMHttpServer, "run_server", serve)
    server = local.LocalServer.__new__(local.LocalServer)
    server._server_address = "10.0.0.1"
    with pytest.raises(RuntimeError, match="no port"):
        asyncio.run(server.run_server(None))
    assert server._server_address == "10.0.0.1"
