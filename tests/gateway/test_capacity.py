"""Admission by what the engines say that their KV caches hold."""

from __future__ import annotations

import asyncio

from fake_vllm import FakeVllm
from gatewaykit import gateway_on, running

from swerl.gateway.engines.metrics_text import tokens_in
from swerl.gateway.engines.scripted import ScriptReply
from swerl.record.events import read_events

LINE = 'vllm:cache_config_info{{block_size="{block}",cache_dtype="auto",engine="{engine}",num_gpu_blocks="{blocks}",swap_space="4"}} 1.0\n'
TEXT = "# HELP vllm:cache_config_info Information of the LLMEngine CacheConfig\n# TYPE vllm:cache_config_info gauge\n"
TASK = [{"role": "user", "content": "f returns 2 " * 100}]


def test_vllms_metrics_are_read():
    assert tokens_in(TEXT + LINE.format(block=16, engine=0, blocks=1000) + "vllm:num_requests_running 1.0\n") == 16_000
    assert tokens_in(TEXT + LINE.format(block=16, engine=0, blocks=10) + LINE.format(block=32, engine=1, blocks=10)) == 480
    assert tokens_in(TEXT + LINE.format(block=16, engine=0, blocks="None")) is None
    assert tokens_in("# nothing\n") is None


async def bounded(kit, tokens: int) -> None:
    async with asyncio.timeout(60):
        while (await kit.admin("GET", "/stats"))["kv_cache_tokens"] != tokens:
            await asyncio.sleep(0.05)


def test_the_gateway_admits_what_the_engine_holds(tmp_path, model_dir, vllm_reader):
    async def main():
        slow = lambda turn: ScriptReply(text="ok", delay_s=1.0)  # noqa: E731
        async with running(tmp_path, model_dir, vllm_reader, slow, registered=False, kv_cache_tokens=-1) as kit:
            kit.engine.kv_cache_tokens = 900
            await kit.admin("POST", "/engine", kit.engine.registration())
            await bounded(kit, 900)
            keys = [(await kit.open())[1] for _ in range(3)]
            asked = [asyncio.create_task(kit.chat(key, TASK)) for key in keys]
            async with asyncio.timeout(60):
                while not (stats := await kit.admin("GET", "/stats"))["waiting"]:
                    await asyncio.sleep(0.02)
            assert stats["admitted"] == 1 and stats["admitted_tokens"] < 900
            await asyncio.gather(*asked)
        events = [e for e in read_events(tmp_path / "gateway.jsonl") if e["kind"] == "gateway.kv_cache"]
        assert [e["tokens"] for e in events] == [900]

    asyncio.run(main())


def test_a_vllm_server_is_asked_for_its_metrics_and_one_that_does_not_say_bounds_nothing(tmp_path, model_dir, vllm_reader):
    async def main():
        telling, silent = FakeVllm(lambda number, prompt: [1]), FakeVllm(lambda number, prompt: [1])
        telling.metrics = TEXT + LINE.format(block=16, engine=0, blocks=50)
        await telling.start()
        await silent.start()
        async with gateway_on(tmp_path, model_dir, vllm_reader, kv_cache_tokens=-1) as kit:
            await kit.admin("POST", "/engine", {"kind": "vllm", "url": telling.url, "epoch": 1})
            await bounded(kit, 800)
            await kit.admin("POST", "/engine", {"kind": "vllm", "url": silent.url, "epoch": 2})
            await bounded(kit, 0)
        await telling.stop()
        await silent.stop()

    asyncio.run(main())


def test_a_configured_number_stands(tmp_path, model_dir, vllm_reader):
    async def main():
        async with running(tmp_path, model_dir, vllm_reader, lambda turn: "ok", kv_cache_tokens=5000) as kit:
            kit.engine.kv_cache_tokens = 400
            _, key = await kit.open()
            await kit.chat(key, TASK)
            assert (await kit.admin("GET", "/stats"))["kv_cache_tokens"] == 5000

    asyncio.run(main())
