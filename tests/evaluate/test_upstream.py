"""A server that is reached by URL, behind the gateway's own surfaces: what comes without tokens is served and counted all the same."""

from __future__ import annotations

import asyncio

import aiohttp
import orjson
from aiohttp import web

from swerl.evaluate.upstream import Upstream, serve
from swerl.gateway.settings import GatewaySettings


def test_stop_sequences_and_the_admin_surface_need_no_tokens(tmp_path):
    async def chat(request: web.Request) -> web.Response:
        assert orjson.loads(await request.read())["stop"] == ["END"]
        choice = {"index": 0, "message": {"role": "assistant", "content": "done "}, "finish_reason": "stop"}
        return web.json_response({"choices": [choice], "usage": {"prompt_tokens": 50, "completion_tokens": 9}})

    async def main():
        app = web.Application()
        app.router.add_post("/v1/chat/completions", chat)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}/v1"
        services = tmp_path / "services.json"
        settings = GatewaySettings(
            model_path=tmp_path, journal_dir=tmp_path / "gateway", events_path=tmp_path / "events.jsonl", services_path=services
        )
        serving = asyncio.create_task(serve(settings, Upstream(settings, url, "theirs", "")))
        async with asyncio.timeout(60):
            while not services.exists():
                await asyncio.sleep(0.02)
        entry = orjson.loads(services.read_bytes())["gateway"]
        admin = {"Authorization": f"Bearer {entry['admin_token']}"}
        async with aiohttp.ClientSession() as client:
            async with client.post(f"{entry['admin_url']}/sessions", json={}, headers=admin) as response:
                key = (await response.json())["key"]
            body = {"model": "m", "max_tokens": 50, "messages": [{"role": "user", "content": "go"}], "stop_sequences": ["END"]}
            for stream in (False, True):
                async with client.post(f"{entry['public_url']}/t/{key}/v1/messages", json={**body, "stream": stream}) as response:
                    text = await response.text()
                    assert response.status == 200 and "done" in text and "end_turn" in text
            for path, told in (("/stats", '"turns":2'), ("/metrics", "swerl_gateway_turns_total 2")):
                async with client.get(entry["admin_url"] + path, headers=admin) as response:
                    assert response.status == 200 and told in await response.text()
            async with client.post(f"{entry['admin_url']}/shutdown", headers=admin) as response:
                assert response.status == 200
        await serving
        await runner.cleanup()

    asyncio.run(main())
