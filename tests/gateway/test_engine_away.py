"""The engine goes away and comes back: pause and resume, epochs, crashes, partial turns."""

from __future__ import annotations

import asyncio
import time

from gatewaykit import gateway_on, running

from swerl.gateway.engines.scripted import ScriptedEngine, ScriptReply, ScriptTurn, scripted_logprob

TASK = [{"role": "system", "content": "Fix."}, {"role": "user", "content": "f returns 2"}]
LONG = "one two three four five six seven eight nine ten"


def trickle(turn: ScriptTurn) -> ScriptReply:
    """Says LONG; asked to go on from a piece of it, says the rest."""
    said = turn.text.rpartition("<|im_start|>assistant\n")[2]
    assert LONG.startswith(said)
    return ScriptReply(text=LONG[len(said) :], token_s=0.02)


def text_of(answer: dict) -> str:
    return answer["choices"][0]["message"]["content"]


def test_a_turn_cut_by_a_weight_update_goes_on_with_mixed_versions(tmp_path, model_dir, vllm_reader):
    async def main():
        async with running(tmp_path, model_dir, vllm_reader, trickle) as kit:
            session, key = await kit.open()
            asked = asyncio.create_task(kit.chat(key, TASK))
            await asyncio.sleep(0.2)
            assert (await kit.admin("POST", "/pause", {"reason": "update", "epoch": 1}))["aborted"] == 1
            stats = await kit.admin("GET", "/stats")
            assert stats["paused"] and stats["in_flight"] == 0
            await asyncio.sleep(0.3)
            assert not asked.done() and len(kit.engine.requests) == 1
            kit.engine.version = 1
            await kit.admin("POST", "/resume", {"version": 1, "epoch": 1})
            assert text_of(await asked) == LONG
            recording = await kit.recording(session)
            (path,) = recording["paths"]
            assert recording["turns"] == 1 and 0.25 < recording["hold_s"] < 5
            assert set(path["versions"]) == {0, 1} and path["versions"] == sorted(path["versions"])
            start = len(path["prompt_ids"])
            assert path["response_logprobs"] == [scripted_logprob(t, start + i) for i, t in enumerate(path["response_ids"])]
            assert kit.engine.requests[1]["prompt_ids"] == path["prompt_ids"] + path["response_ids"][: path["versions"].count(0)]

    asyncio.run(main())


def test_requests_wait_while_paused_and_before_any_engine(tmp_path, model_dir, vllm_reader):
    async def main():
        async with running(tmp_path, model_dir, vllm_reader, lambda t: "hi", registered=False) as kit:
            keys = [await kit.open() for _ in range(3)]
            asked = [asyncio.create_task(kit.chat(key, TASK)) for _, key in keys]
            while (await kit.admin("GET", "/stats"))["waiting"] < 3:
                await asyncio.sleep(0.02)
            await asyncio.sleep(0.3)
            assert not any(a.done() for a in asked)
            await kit.admin("POST", "/engine", kit.engine.registration())
            assert [text_of(a) for a in await asyncio.gather(*asked)] == ["hi"] * 3
            assert all([(await kit.recording(s))["hold_s"] > 0.25 for s, _ in keys])

    asyncio.run(main())


def test_an_older_epoch_is_refused_everywhere(tmp_path, model_dir, vllm_reader):
    async def main():
        async with running(tmp_path, model_dir, vllm_reader, lambda t: "hi") as kit:
            await kit.admin("POST", "/engine", {**kit.engine.registration(), "epoch": 5})
            await kit.admin("POST", "/engine", kit.engine.registration(), status=409)
            await kit.admin("POST", "/pause", {"reason": "x", "epoch": 4}, status=409)
            await kit.admin("POST", "/resume", {"version": 9, "epoch": 4}, status=409)
            stats = await kit.admin("GET", "/stats")
            assert stats["engine"]["epoch"] == 5 and not stats["paused"] and stats["version"] == 0

    asyncio.run(main())


def test_a_dead_engine_is_replaced_under_the_waiting_request(tmp_path, model_dir, vllm_reader):
    async def main():
        async with running(tmp_path, model_dir, vllm_reader, trickle) as kit:
            session, key = await kit.open()
            asked = asyncio.create_task(kit.chat(key, TASK))
            await asyncio.sleep(0.1)
            await kit.engine.stop()
            await asyncio.sleep(0.3)
            assert not asked.done()
            other = ScriptedEngine(trickle, model_dir, epoch=2, version=7)
            await other.start()
            await kit.admin("POST", "/engine", other.registration())
            assert text_of(await asked) == LONG
            (path,) = (await kit.recording(session))["paths"]
            assert set(path["versions"]) == {7}
            await other.stop()

    asyncio.run(main())


def test_an_engine_that_answers_again_is_found_without_registration(tmp_path, model_dir, vllm_reader):
    async def main():
        async with running(tmp_path, model_dir, vllm_reader, lambda t: "hi") as kit:
            _, key = await kit.open()
            kit.engine.away = True
            asked = asyncio.create_task(kit.chat(key, TASK))
            await asyncio.sleep(0.4)
            assert not asked.done()
            kit.engine.away = False
            assert text_of(await asyncio.wait_for(asked, 5)) == "hi"

    asyncio.run(main())


def test_the_pause_outlives_the_gateway(tmp_path, model_dir, vllm_reader):
    async def main():
        async with running(tmp_path, model_dir, vllm_reader, lambda t: "hi") as kit:
            _, key = await kit.open()
            await kit.admin("POST", "/pause", {"reason": "sleep", "epoch": 1})
            await kit.gateway.stop()
            async with gateway_on(tmp_path, model_dir, vllm_reader) as other:
                asked = asyncio.create_task(other.chat(key, TASK))
                await asyncio.sleep(0.3)
                assert not asked.done() and (await other.admin("GET", "/stats"))["reason"] == "sleep"
                await other.admin("POST", "/resume", {"version": 3, "epoch": 1})
                assert text_of(await asked) == "hi"
            kit.gateway.stop = _nothing

    asyncio.run(main())


async def _nothing() -> None: ...


def test_the_longest_hold_ends_in_an_error_that_invites_a_retry(tmp_path, model_dir, vllm_reader):
    async def main():
        async with running(tmp_path, model_dir, vllm_reader, lambda t: "hi", registered=False, max_hold_s=0.2) as kit:
            _, key = await kit.open()
            began = time.monotonic()
            body = {"model": "m", "messages": TASK}
            async with kit.client.post(f"{kit.gateway.public_url}/t/{key}/v1/chat/completions", json=body) as response:
                assert response.status == 503 and response.headers["x-should-retry"] == "true"
                assert (await response.json())["error"]["code"] == "engine_away"
            assert time.monotonic() - began < 2

    asyncio.run(main())


def test_an_answer_that_breaks_the_protocol_is_no_turn(tmp_path, model_dir, vllm_reader):
    async def main():
        async with running(tmp_path, model_dir, vllm_reader, lambda t: ScriptReply(token_ids=[])) as kit:
            session, key = await kit.open()
            answer = await kit.chat(key, TASK, status=502)
            assert answer["error"]["code"] == "engine_error"
            assert (await kit.recording(session))["turns"] == 0

    asyncio.run(main())


async def closing(kit, session: str) -> dict:
    return await kit.admin("POST", f"/sessions/{session}/close", {"reason": "agent"})


def test_what_an_engine_lost_with_its_death_counts_as_waiting(tmp_path, model_dir, vllm_reader):
    """The half of a turn that nobody will have, too: an agent's clock stands still from the turn's beginning."""

    async def main():
        async with running(tmp_path, model_dir, vllm_reader, lambda t: ScriptReply(text=LONG, token_s=5.0)) as kit:
            session, key = await kit.open()
            began = time.monotonic()
            asked = asyncio.create_task(kit.chat(key, TASK))
            await asyncio.sleep(1.0)
            await kit.engine.stop()
            other = ScriptedEngine(lambda t: LONG, model_dir, epoch=2)
            await other.start()
            await kit.admin("POST", "/engine", other.registration())
            assert text_of(await asked) == LONG
            took_s = time.monotonic() - began
            assert 0.9 < (await kit.admin("GET", f"/sessions/{session}/hold"))["hold_s"] <= took_s
            await other.stop()

    asyncio.run(main())


def test_a_request_that_the_engine_fails_is_told_to_the_runner_until_it_is_answered(tmp_path, model_dir, vllm_reader):
    async def main():
        broken = True
        script = lambda turn: ScriptReply(token_ids=[]) if broken else "hi"  # noqa: E731
        async with running(tmp_path, model_dir, vllm_reader, script) as kit:
            (one, key), (other, key_of_other) = await kit.open(), await kit.open()
            for k in (key, key_of_other):
                await kit.chat(k, TASK, status=502)
            broken = False
            await kit.chat(key, TASK, headers={"x-stainless-retry-count": "1"})
            await kit.chat(key_of_other, [{"role": "user", "content": "something else"}])
            assert (await closing(kit, one))["unanswered"] == 0
            told = await closing(kit, other)
            assert told["unanswered"] == 1 and told["turns"] == 1
            assert (await closing(kit, other))["unanswered"] == 1

    asyncio.run(main())


def test_a_client_that_leaves_while_the_engine_is_away_was_not_answered_by_us(tmp_path, model_dir, vllm_reader):
    """Also for the gateway that comes after this one. A client that leaves an engine at work has left by itself."""

    async def leave(kit, key: str) -> None:
        asked = asyncio.create_task(kit.chat(key, TASK))
        await asyncio.sleep(0.5)
        asked.cancel()
        await asyncio.sleep(0.2)

    async def main():
        async with running(tmp_path, model_dir, vllm_reader, lambda t: ScriptReply(text=LONG, token_s=1.0)) as kit:
            (at_work, one), (away, other) = await kit.open(), await kit.open()
            await leave(kit, one)
            kit.engine.away = True
            await leave(kit, other)
            assert not (await kit.admin("GET", "/stats"))["answers"]
            await kit.gateway.stop()
            async with gateway_on(tmp_path, model_dir, vllm_reader) as after:
                assert (await closing(after, at_work))["unanswered"] == 0
                assert (await closing(after, away))["unanswered"] == 1
            kit.gateway.stop = _nothing

    asyncio.run(main())


def test_an_error_nobody_foresaw_is_ours_too(tmp_path, model_dir, vllm_reader):
    async def main():
        async with running(tmp_path, model_dir, vllm_reader, lambda t: "hi") as kit:
            session, key = await kit.open()

            def broken(*_: object) -> None:
                raise RuntimeError("the template")

            kit.gateway.store.parts.placer.place = broken
            url = f"{kit.gateway.public_url}/t/{key}/v1/chat/completions"
            async with kit.client.post(url, json={"model": "m", "messages": TASK}) as response:
                assert response.status == 500
            assert (await closing(kit, session))["unanswered"] == 1

    asyncio.run(main())
