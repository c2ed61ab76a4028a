"""A killed gateway with very many sessions on disk is back at once and serves them: sessions are found by name and read when asked for."""

from __future__ import annotations

import asyncio
import hashlib
import socket

import aiohttp
import orjson
import psutil
import pytest
from test_kill import Process, says

from swerl.gateway.engines.scripted import ScriptedEngine, register
from swerl.gateway.store import session_id
from swerl.record.session_journal import read_journal

SESSIONS, ASKED, READY_S = 5_000, 100, 10.0


def copies(directory, original, count: int) -> list[str]:
    """As many sessions with the turns of ``original``, each under a key of its own."""
    lines = list(read_journal(original))
    rest = b"".join(orjson.dumps(line) + b"\n" for line in lines[1:])
    keys = [hashlib.sha256(f"key {i}".encode()).hexdigest() for i in range(count)]
    for key in keys:
        id = session_id(key)
        (directory / f"{id}.jsonl").write_bytes(orjson.dumps({**lines[0], "session": id}) + b"\n" + rest)
    return keys


@pytest.mark.slow
def test_a_kill_with_many_sessions_on_disk(tmp_path, model_dir):
    async def main():
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        process = Process(model_dir, tmp_path, port)
        engine = ScriptedEngine(says, model_dir, version=4)
        await engine.start()
        await process.start()
        await register(engine, tmp_path / "services.json")
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)) as client:

            async def admin(method: str, path: str, body: dict | None = None) -> dict:
                headers = {"Authorization": f"Bearer {process.entry['admin_token']}"}
                async with client.request(method, process.entry["admin_url"] + path, json=body, headers=headers) as response:
                    assert response.status == 200, await response.text()
                    return await response.json()

            async def chat(key: str, history: list[dict]) -> dict:
                body = {"model": "m", "messages": history}
                async with client.post(f"http://127.0.0.1:{port}/t/{key}/v1/chat/completions", json=body) as response:
                    assert response.status == 200, await response.text()
                    return (await response.json())["choices"][0]["message"]

            first = await admin("POST", "/sessions", {"trial": {"sample": 0}, "sampling": {}})
            history = [{"role": "user", "content": "begin"}]
            for i in range(3):
                history += [await chat(first["key"], history), {"role": "user", "content": f"go on {i}"}]
            recorded = await admin("GET", f"/sessions/{first['session']}/recording")
            sessions = tmp_path / "gateway" / "sessions"
            keys = copies(sessions, sessions / f"{first['session']}.jsonl", SESSIONS)
            process.kill()
            await process.start()
            answer = await chat(keys[-1], history)
            assert answer["content"].startswith("step ")
            spent = psutil.Process(process.child.pid).cpu_times()
            assert spent.user + spent.system < READY_S  # processor time from start to first answer: what else runs does not count

            for asked in range(0, ASKED, 50):
                for told in await asyncio.gather(*(chat(key, history) for key in keys[asked : asked + 50])):
                    assert told["content"].startswith("step ")
            again = await admin("GET", f"/sessions/{session_id(keys[0])}/recording")
            assert again["turns"] == 4 and recorded["turns"] == 3
            (before,), (after,) = recorded["paths"], again["paths"]
            kept = len(before["response_ids"])
            for name in ("response_ids", "response_mask", "response_logprobs", "versions"):
                assert after[name][:kept] == before[name]
            assert (await admin("GET", "/stats"))["sessions"] == ASKED + 1, "only what was asked for is in memory"
        process.kill()
        await engine.stop()

    asyncio.run(main())
