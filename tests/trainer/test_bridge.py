"""The engine bridge over HTTP, with verl's own load balancer and replicas that a test holds in its hand."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import aiohttp
import pytest
from aiohttp import web

from swerl.record.events import read_events

pytestmark = pytest.mark.slow  # importing verl takes seconds

SAMPLING = {"temperature": 1.0, "max_tokens": 4, "seed": 3, "nonsense": 1}


class Remote:
    """Methods as Ray actors have them: ``handle.name.remote(...)``."""

    def __init__(self, actor):
        self._actor = actor

    def __getattr__(self, name):
        method = getattr(self._actor, name)

        def remote(*args, **kwargs):
            called = method(*args, **kwargs)
            return called if asyncio.iscoroutine(called) else asyncio.sleep(0, called)

        def fire(*args, **kwargs):
            return asyncio.ensure_future(remote(*args, **kwargs))

        return SimpleNamespace(remote=fire)


class Replica:
    """Holds every request until it is let go or aborted; ``most`` is how many it had at once."""

    def __init__(self):
        self.inside: dict[str, asyncio.Future] = {}
        self.sessions, self.most, self.seen = Counter(), 0, []

    async def generate(self, request_id: str, prompt_ids: list[int], sampling_params: dict):
        self.seen.append((request_id, prompt_ids, sampling_params))
        ending = self.inside[request_id] = asyncio.get_running_loop().create_future()
        self.most = max(self.most, len(self.inside))
        try:
            tokens, reason = await ending
        finally:
            del self.inside[request_id]
        return SimpleNamespace(
            token_ids=tokens,
            log_probs=[-0.5] * len(tokens),
            stop_reason=reason,
            extra_fields={"global_steps": 7, "num_cached_tokens": 2},
        )

    async def abort_request(self, request_id: str, reset_prefix_cache: bool):
        assert reset_prefix_cache is False
        if (ending := self.inside.get(request_id)) is None:
            return {"aborted": False}
        ending.set_result(([11], "aborted"))
        return {"aborted": True}

    def let_go(self, request_id: str, tokens: list[int], reason: str = "completed") -> None:
        self.inside[request_id].set_result((tokens, reason))


@asynccontextmanager
async def bridged(names=("a", "b"), max_num_seqs: int = 2):
    from verl.workers.rollout.router import GlobalRequestLoadBalancer

    from swerl.trainer.bridge import BridgeClient, EngineBridge

    class Client(BridgeClient):
        async def addresses(self):
            return [name for name in await super().addresses() if ":" in name]  # those that have a server

    replicas = {name: Replica() for name in names}
    balancer = GlobalRequestLoadBalancer({name: Remote(replica) for name, replica in replicas.items()})
    with TemporaryDirectory() as place:
        events = Path(place) / "bridge.jsonl"
        bridge = EngineBridge(Client(None, Remote(balancer)), 5, max_num_seqs, [99], "127.0.0.1", events)
        told = await bridge.start()
        async with aiohttp.ClientSession(told["url"], headers={"Authorization": f"Bearer {told['token']}"}) as client:
            yield SimpleNamespace(bridge=bridge, client=client, replicas=replicas, told=told, events=events)
        await bridge.stop()


async def post(kit, path: str, body: dict, status: int = 200) -> dict:
    async with kit.client.post(path, json={"epoch": 5, **body}) as response:
        assert response.status == status, await response.text()
        return await response.json() if status == 200 else {}


def ask(kit, request_id: str, session: str, status: int = 200) -> asyncio.Task:
    body = {"request_id": request_id, "session": session, "prompt_ids": [1, 2], "sampling": SAMPLING}
    return asyncio.create_task(post(kit, "/generate", body, status))


async def until(true) -> None:
    async with asyncio.timeout(30):
        while not true():
            await asyncio.sleep(0.01)


def home(kit, request_id: str) -> str:
    return next(name for name, replica in kit.replicas.items() if request_id in replica.inside)


def test_a_session_stays_with_its_replica_and_a_new_one_goes_to_the_least_loaded():
    async def main():
        async with bridged(("a", "b", "c"), max_num_seqs=8) as kit:
            tasks, homes = {}, {}
            for turn in range(2):
                for session in ("s0", "s1", "s2"):
                    name = f"{session}.{turn}"
                    tasks[name] = ask(kit, name, session)
                    await until(lambda name=name: any(name in r.inside for r in kit.replicas.values()))
                    homes.setdefault(session, set()).add(home(kit, name))
            assert all(len(places) == 1 for places in homes.values()), "a session stays where its prefix is"
            assert len(set.union(*homes.values())) == 3, "three sessions on three replicas, none of them idle"
            for name in tasks:
                kit.replicas[home(kit, name)].let_go(name, [5, 99])
            await asyncio.gather(*tasks.values())

    asyncio.run(main())


def test_pieces_are_told_apart_and_carry_their_version():
    async def main():
        async with bridged(("a",), max_num_seqs=8) as kit:
            replica = kit.replicas["a"]
            for request_id, tokens, reason, finish in (
                ("whole", [5, 99], "completed", "stop"),
                ("long", [5, 6, 7, 8], "completed", "length"),
                ("just", [5, 6, 7, 99], "completed", "stop"),
                ("cut", [5], "aborted", "aborted"),
                ("none", [], "aborted", "aborted"),
            ):
                task = ask(kit, request_id, "s")
                await until(lambda r=request_id: r in replica.inside)
                replica.let_go(request_id, tokens, reason)
                answer = await task
                assert (answer["token_ids"], answer["finish_reason"]) == (tokens, finish)
                assert answer["versions"] == [7] * len(tokens) and answer["logprobs"] == [-0.5] * len(tokens)
            _, prompt, sampling = replica.seen[0]
            assert prompt == [1, 2] and sampling == {"temperature": 1.0, "seed": 3, "max_tokens": 4, "logprobs": True}

    asyncio.run(main())


def test_a_replica_has_at_most_max_num_seqs_and_what_waits_can_be_aborted():
    async def main():
        async with bridged(("a",), max_num_seqs=2) as kit:
            replica = kit.replicas["a"]
            tasks = [ask(kit, f"r{i}", f"s{i}") for i in range(5)]
            await until(lambda: len(kit.bridge.pending) == 5 and len(replica.inside) == 2)
            waiting = [i for i in range(5) if f"r{i}" not in replica.inside]
            told = await post(kit, "/abort", {"request_ids": [f"r{i}" for i in waiting] + ["unknown"]})
            assert told == {"aborted": 3}
            inside = [i for i in range(5) if i not in waiting]
            assert (await post(kit, "/abort", {"request_ids": [f"r{inside[0]}"]})) == {"aborted": 1}
            replica.let_go(f"r{inside[1]}", [5, 99])
            answers = await asyncio.gather(*tasks)
            assert [answers[i]["finish_reason"] for i in waiting] == ["aborted"] * 3
            assert answers[inside[0]]["token_ids"] == [11] and answers[inside[0]]["finish_reason"] == "aborted"
            assert answers[inside[1]]["finish_reason"] == "stop"
            assert replica.most == 2 and not kit.bridge.pending

    asyncio.run(main())


def test_a_gateway_that_goes_away_ends_its_requests():
    async def main():
        async with bridged(("a",)) as kit:
            task = ask(kit, "r", "s")
            await until(lambda: "r" in kit.replicas["a"].inside)
            task.cancel()
            await until(lambda: not kit.replicas["a"].inside and not kit.bridge.pending)

    asyncio.run(main())


def test_strangers_and_older_starts_are_refused():
    async def main():
        async with bridged(("a",)) as kit:
            await post(kit, "/abort", {"epoch": 4}, status=409)
            async with aiohttp.ClientSession(kit.told["url"]) as stranger:
                for path in ("/generate", "/abort", "/cache"):
                    async with stranger.post(path, json={"epoch": 5}) as response:
                        assert response.status == 401

    asyncio.run(main())


def test_the_replicas_caches_are_added_up():
    line = 'vllm:cache_config_info{{block_size="16",engine="0",num_gpu_blocks="{}"}} 1.0\n'

    async def replica_server(blocks: int | None):
        async def metrics(request: web.Request) -> web.Response:
            return web.Response(text="" if blocks is None else line.format(blocks))

        app = web.Application()
        app.router.add_get("/metrics", metrics)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return runner, f"127.0.0.1:{site._server.sockets[0].getsockname()[1]}"

    async def main():
        servers = [await replica_server(blocks) for blocks in (100, 50, None)]
        names = [name for _, name in servers]
        async with bridged(tuple(names[:2])) as kit:
            assert await post(kit, "/cache", {}) == {"kv_cache_tokens": 2400}
        async with bridged(tuple(names)) as kit:
            assert await post(kit, "/cache", {}) == {"kv_cache_tokens": None}
        for runner, _ in servers:
            await runner.cleanup()
        async with bridged(tuple(names[:1])) as kit:  # its server is gone
            assert await post(kit, "/cache", {}) == {"kv_cache_tokens": None}

    asyncio.run(main())


class EngineDeadError(Exception):
    """Has the name of vLLM's."""


@asynccontextmanager
async def health_server(status: list[int]):
    """A replica's own server: its health is the last of ``status``. Yields its address and the way to close it."""

    async def health(request: web.Request) -> web.Response:
        return web.Response(status=status[-1])

    app = web.Application()
    app.router.add_get("/health", health)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"127.0.0.1:{site._server.sockets[0].getsockname()[1]}", runner.cleanup
    await runner.cleanup()


def deaths(kit) -> list[dict]:
    return [event for event in read_events(kit.events) if event["kind"] == "engine.died"]


@pytest.mark.parametrize("how", ["says that the engine is dead", "does not listen any more"])
def test_a_dead_replica_is_seen_within_ten_seconds_with_nobody_asking(how):
    """What is with it then, and what waits for a place there, is answered with 503, which the gateway holds; so is all that comes later."""

    async def main():
        status = [200]
        async with health_server(status) as (name, close), bridged((name,), max_num_seqs=1) as kit:
            flying = [ask(kit, request_id, "s", status=503) for request_id in ("inside", "waiting")]
            await until(lambda: len(kit.bridge.pending) == 2 and kit.replicas[name].inside)
            await asyncio.sleep(2.5)
            assert await kit.bridge.why_dead() is None and not any(task.done() for task in flying)
            began = time.monotonic()
            if how == "says that the engine is dead":
                status.append(503)
            else:
                await close()
            async with asyncio.timeout(10):
                await asyncio.gather(*flying)
            assert time.monotonic() - began < 10
            await ask(kit, "later", "s", status=503)
            (event,) = deaths(kit)
            assert event["replica"] == name and how in event["cause"] and event["in_flight"] == 2
            assert how in await kit.bridge.why_dead()
            assert await post(kit, "/abort", {"request_ids": ["inside"]}) == {"aborted": 0}

    asyncio.run(main())


def test_a_request_that_meets_a_dead_engine_tells_at_once_and_one_that_only_fails_tells_nothing():
    async def main():
        async with health_server([200]) as (name, _), bridged((name,)) as kit:
            failing = ask(kit, "bad", "s", status=500)
            await until(lambda: "bad" in kit.replicas[name].inside)
            kit.replicas[name].inside["bad"].set_exception(ValueError("this prompt"))
            await failing
            assert await kit.bridge.why_dead() is None and not deaths(kit)
            dying, other = ask(kit, "dying", "s", status=503), ask(kit, "other", "t", status=503)
            await until(lambda: len(kit.replicas[name].inside) == 2)
            began = time.monotonic()
            kit.replicas[name].inside["dying"].set_exception(EngineDeadError("EngineCore encountered an issue."))
            await asyncio.gather(dying, other)
            assert time.monotonic() - began < 1.5 and "EngineCore" in await kit.bridge.why_dead()
            assert len(deaths(kit)) == 1

    asyncio.run(main())


def test_a_busy_server_is_not_a_dead_one(monkeypatch):
    from swerl.trainer import bridge

    async def late(address: str) -> int:
        return 0

    monkeypatch.setattr(bridge, "_HEALTH_S", 0.02)
    monkeypatch.setattr(bridge, "_health", late)

    async def main():
        async with bridged(("127.0.0.1:9",)) as kit:
            await asyncio.sleep(0.4)
            assert await kit.bridge.why_dead() is None and not deaths(kit)

    asyncio.run(main())
