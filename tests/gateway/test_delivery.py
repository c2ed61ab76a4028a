"""Who gets which answer: retries, second samples, lost connections, restarts."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from gatewaykit import TOOLS, call_text, gateway_on, running

from swerl.gateway.engines.scripted import ScriptReply, ScriptTurn

TASK = [{"role": "system", "content": "Fix."}, {"role": "user", "content": "f returns 2"}]


def slow(turn: ScriptTurn) -> ScriptReply:
    return ScriptReply(text=f"answer {turn.turn}", delay_s=0.4)


def counting(turn: ScriptTurn) -> str:
    return f"answer {turn.turn}"


def text_of(answer: dict) -> str:
    return answer["choices"][0]["message"]["content"]


async def give_up(kit, key: str, after_s: float, stream: bool = False) -> None:
    """A client that loses patience."""
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(kit.chat(key, TASK, stream=stream), after_s)


def test_a_second_request_for_the_same_turn_is_a_sibling(tmp_path, model_dir, vllm_reader):
    async def main():
        async with running(tmp_path, model_dir, vllm_reader, counting) as kit:
            session, key = await kit.open(seed=5)
            assert [text_of(await kit.chat(key, TASK)) for _ in range(2)] == ["answer 0", "answer 1"]
            seeds = [r["sampling"]["seed"] for r in kit.engine.requests]
            assert seeds[0] != seeds[1]
            rows = (await kit.recording(session))["paths"]
            assert len(rows) == 2 and rows[0]["prompt_ids"] == rows[1]["prompt_ids"]

    asyncio.run(main())


def test_a_marked_retry_gets_the_stored_answer(tmp_path, model_dir, vllm_reader):
    async def main():
        async with running(tmp_path, model_dir, vllm_reader, counting) as kit:
            session, key = await kit.open()
            first = await kit.chat(key, TASK)
            again = await kit.chat(key, TASK, headers={"x-stainless-retry-count": "1"})
            assert again["id"] == first["id"] and text_of(again) == "answer 0"
            assert len(kit.engine.requests) == 1 and (await kit.recording(session))["turns"] == 1

    asyncio.run(main())


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_lost_its_connection_is_given_its_turn(tmp_path, model_dir, vllm_reader, stream):
    async def main():
        async with running(tmp_path, model_dir, vllm_reader, slow) as kit:
            session, key = await kit.open()
            await give_up(kit, key, 0.15, stream)
            assert text_of(await kit.chat(key, TASK)) == "answer 0"  # the work went on
            await give_up(kit, key, 0.15, stream)
            await asyncio.sleep(0.6)  # ended without a client
            assert text_of(await kit.chat(key, TASK)) == "answer 1"
            assert len(kit.engine.requests) == 2
            assert (await kit.recording(session))["turns"] == 2

    asyncio.run(main())


def test_work_without_a_client_is_aborted_after_the_grace(tmp_path, model_dir, vllm_reader):
    async def main():
        async with running(tmp_path, model_dir, vllm_reader, slow, disconnect_grace_s=0.05) as kit:
            session, key = await kit.open()
            await give_up(kit, key, 0.1)
            await asyncio.sleep(0.5)
            recording = await kit.recording(session)
            assert recording["turns"] == 0 and recording["aborted"] == 1 and not kit.engine._running
            assert text_of(await kit.chat(key, TASK)) == "answer 0"

    asyncio.run(main())


def test_two_clients_at_once_get_two_samples(tmp_path, model_dir, vllm_reader):
    async def main():
        async with running(tmp_path, model_dir, vllm_reader, slow) as kit:
            session, key = await kit.open()
            await asyncio.gather(kit.chat(key, TASK), kit.chat(key, TASK))
            assert (await kit.recording(session))["turns"] == 2 and len(kit.engine.requests) == 2

    asyncio.run(main())


def test_a_restarted_gateway_serves_the_same_session(tmp_path, model_dir, vllm_reader):
    async def main():
        async with running(tmp_path, model_dir, vllm_reader, counting) as kit:
            session, key = await kit.open(seed=3)
            first = await kit.chat(key, TASK)
            history = [*TASK, first["choices"][0]["message"], {"role": "user", "content": "go on"}]
            recorded = await kit.recording(session)
            engine = kit.engine
            await kit.gateway.stop()
            async with gateway_on(tmp_path, model_dir, vllm_reader) as other:
                other.engine = engine
                assert (await other.recording(session))["paths"] == recorded["paths"]
                assert text_of(await other.chat(key, history)) == "answer 1"  # the engine is known from before
                whole = engine.requests[1]["prompt_ids"]
                path = recorded["paths"][0]
                assert whole[: len(path["prompt_ids"] + path["response_ids"])] == path["prompt_ids"] + path["response_ids"]
                assert text_of(await other.chat(key, TASK)) == "answer 2", "the first answer was read before the restart"
            kit.gateway.stop = _nothing  # ended above

    asyncio.run(main())


async def _nothing() -> None: ...


def test_an_undelivered_answer_survives_a_restart(tmp_path, model_dir, vllm_reader):
    async def main():
        async with running(tmp_path, model_dir, vllm_reader, slow) as kit:
            session, key = await kit.open()
            await give_up(kit, key, 0.1)
            await asyncio.sleep(0.6)
            await kit.gateway.stop()
            async with gateway_on(tmp_path, model_dir, vllm_reader) as other:
                assert text_of(await other.chat(key, TASK)) == "answer 0"
                assert len(kit.engine.requests) == 1
                assert (await other.recording(session))["turns"] == 1
            kit.gateway.stop = _nothing

    asyncio.run(main())


def test_closing_aborts_and_stays_closed(tmp_path, model_dir, vllm_reader):
    async def main():
        async with running(tmp_path, model_dir, vllm_reader, slow) as kit:
            session, key = await kit.open()
            await kit.chat(key, TASK)
            waiting = asyncio.create_task(kit.chat(key, TASK, status=401))
            await asyncio.sleep(0.1)
            closed = await kit.admin("POST", f"/sessions/{session}/close", {"reason": "agent_end"})
            assert closed["turns"] == 1 and closed["aborted"] == 1
            await waiting
            await asyncio.sleep(0.05)
            assert not kit.engine._running
            assert await kit.admin("POST", f"/sessions/{session}/close", {}) == closed
            await kit.gateway.stop()
            async with gateway_on(tmp_path, model_dir, vllm_reader) as other:
                await other.chat(key, TASK, status=401)
                assert (await other.admin("POST", f"/sessions/{session}/close", {}))["turns"] == 1
                assert (await other.recording(session))["status"] == "closed: agent_end"
            kit.gateway.stop = _nothing

    asyncio.run(main())


def test_a_long_wait_keeps_the_connection_alive(tmp_path, model_dir, vllm_reader):
    async def main():
        async with running(tmp_path, model_dir, vllm_reader, slow, keepalive_s=0.05) as kit:
            _, key = await kit.open()
            url = f"{kit.gateway.public_url}/t/{key}/v1/chat/completions"
            for stream in (False, True):
                body = {"model": "m", "messages": TASK, "tools": TOOLS, "stream": stream}
                timeout = aiohttp.ClientTimeout(sock_read=0.2)
                async with kit.client.post(url, json=body, timeout=timeout) as response:
                    raw = await response.read()
                assert response.status == 200
                assert raw.startswith(b": keep-alive\n\n" if stream else b"  ") and b"answer" in raw

    asyncio.run(main())


def test_rewritten_copies_are_reported_once(tmp_path, model_dir, vllm_reader):
    from swerl.record.events import read_events

    async def main():
        async with running(tmp_path, model_dir, vllm_reader, lambda t: call_text("cd /x && cat y") if t.turn == 0 else "ok") as kit:
            session, key = await kit.open()
            message = (await kit.chat(key, TASK))["choices"][0]["message"]
            message["tool_calls"][0]["function"]["arguments"] = '{"command": "cat y"}'
            history = [*TASK, message, {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "z"}]
            answer = (await kit.chat(key, history))["choices"][0]["message"]
            await kit.chat(key, [*history, answer, {"role": "user", "content": "more"}])
            events = [e for e in read_events(tmp_path / "gateway.jsonl") if e["kind"] == "gateway.rewrite"]
            assert [(e["session"], e["kinds"], e["kept"]) for e in events] == [(session, ["arguments"], True)]
            assert key not in (tmp_path / "gateway.jsonl").read_text()
            rows = (await kit.recording(session))["paths"]
            text = kit.gateway.template.tokenizer.decode(rows[0]["response_ids"], skip_special=False)
            assert len(rows) == 1 and "cd /x && cat y" in text

    asyncio.run(main())


def test_an_idle_session_leaves_the_memory_and_comes_back(tmp_path, model_dir, vllm_reader):
    async def main():
        async with running(tmp_path, model_dir, vllm_reader, slow) as kit:
            session, key = await kit.open()
            asked = asyncio.create_task(kit.chat(key, TASK))
            await asyncio.sleep(0.1)
            assert kit.gateway.store.forget_idle(0) == 0, "a session that works is not idle"
            first = await asked
            recorded = await kit.recording(session)
            assert kit.gateway.store.forget_idle(0) == 1 and kit.gateway.store.live() == []
            history = [*TASK, first["choices"][0]["message"], {"role": "user", "content": "go on"}]
            assert text_of(await kit.chat(key, history)) == "answer 1"
            (path,) = (await kit.recording(session))["paths"]
            (before,) = recorded["paths"]
            assert path["prompt_ids"] == before["prompt_ids"]
            assert path["response_logprobs"][: len(before["response_ids"])] == before["response_logprobs"]

    asyncio.run(main())


def test_a_client_that_leaves_while_its_request_is_placed_does_no_harm(tmp_path, model_dir, vllm_reader):
    async def main():
        async with running(tmp_path, model_dir, vllm_reader, counting, window_tokens=1_000_000) as kit:
            session, key = await kit.open()
            # tokenising takes a while, in a thread
            long = [{"role": "user", "content": f"{i} the quick brown fox " * 8000} for i in range(4)]
            for message in long:
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(kit.chat(key, [message]), 0.02)
            answers = await asyncio.gather(*(kit.chat(key, [message]) for message in long))
            assert len({a["id"] for a in answers}) == 4
            rows = (await kit.recording(session))["paths"]
            assert len(rows) == 4 and all(len(r["prompt_ids"]) > 8000 for r in rows)

    asyncio.run(main())
