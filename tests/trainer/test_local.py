"""vLLM's HTTP surface, which has no key, answers nobody but a probe, and is at no address of a network where one node is all there is."""

from __future__ import annotations

import argparse
import asyncio
import inspect
import socket

import aiohttp
import pytest

pytest.importorskip("verl")
pytest.importorskip("vllm")
from verl.workers.rollout import replica
from verl.workers.rollout.utils import run_uvicorn
from verl.workers.rollout.vllm_rollout.vllm_async_server import vLLMHttpServer
from vllm.entrypoints.openai.api_server import build_app
from vllm.entrypoints.openai.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser

from swerl.trainer import local

ONE, TWO = [{"Alive": True}, {"Alive": False}], [{"Alive": True}, {"Alive": True}]


def test_verl_takes_it_for_vllm(monkeypatch):
    monkeypatch.setattr(replica.RolloutReplicaRegistry, "_registry", dict(replica.RolloutReplicaRegistry._registry))
    local.install()
    assert replica.get_rollout_replica_class("vllm") is local.LocalReplica and issubclass(local.LocalServer, vLLMHttpServer)


def test_the_address_is_read_where_it_listens_and_nowhere_else():
    source = inspect.getsource(vLLMHttpServer.run_server)
    assert source.count("_server_address") == 1 and "run_uvicorn(app, args, self._server_address)" in source


def served(monkeypatch, nodes, ask):
    """vLLM's own app, as verl serves it but without an engine behind it."""

    async def run_server(self, args):
        app = build_app(args, ("generate",))
        app.state.log_stats = False
        self._server_port, self._server_task = await run_uvicorn(app, args, self._server_address)

    monkeypatch.setattr(vLLMHttpServer, "run_server", run_server)
    monkeypatch.setattr(local.ray, "nodes", lambda: nodes)
    server = local.LocalServer.__new__(local.LocalServer)
    server._server_address = "0.0.0.0"  # what would listen everywhere

    async def main():
        args: argparse.Namespace = make_arg_parser(FlexibleArgumentParser()).parse_args([])
        await server.run_server(args)
        try:
            return await ask(*server.get_server_address())
        finally:
            server._server_task.cancel()
            await asyncio.gather(server._server_task, return_exceptions=True)

    return asyncio.run(main())


def test_it_listens_on_loopback_where_one_node_is_all_there_is(monkeypatch):
    async def ask(address, port):
        socket.create_connection((address, port), 5).close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port), 5)
        return address

    assert served(monkeypatch, ONE, ask) == "127.0.0.1"


def test_its_name_is_the_nodes_where_there_are_more(monkeypatch):
    async def ask(address, port):
        socket.create_connection(("127.0.0.2", port), 5).close()
        return address

    assert served(monkeypatch, TWO, ask) == "0.0.0.0"


def test_nothing_but_a_probe_is_answered(monkeypatch):
    async def ask(_, port):
        seen = {}
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
            asked = [("GET", "/metrics"), ("GET", "/metrics/"), ("POST", "/health"), ("GET", "/metrics/x")]
            asked += [("GET", path) for path in ("/", "/v1/models", "/openapi.json", "/docs", "/load", "/version", "/health/x", "/ping")]
            asked += [("POST", path) for path in ("/v1/completions", "/v1/load_lora_adapter", "/scale_elastic_ep", "/pause", "/sleep")]
            for method, path in asked:
                async with http.request(method, path, json={} if method == "POST" else None) as answer:
                    seen[method, path] = answer.status
            with pytest.raises(aiohttp.WSServerHandshakeError):
                await http.ws_connect("/v1/realtime")
            async with http.get("/health") as answer:  # goes through to vLLM, which has no engine here
                assert answer.status == 500
        return seen

    seen = served(monkeypatch, TWO, ask)
    assert {asked for asked, status in seen.items() if status != 404} == {("GET", "/metrics"), ("GET", "/metrics/")}
    assert seen["GET", "/metrics"] == 200
