"""Text leaves while it is sampled where the engine streams, through every API, and only text that stands whatever follows."""

from __future__ import annotations

import asyncio
import json

import pytest
from fake_vllm import FakeVllm
from gatewaykit import TOOLS, call_text, gateway_on

from swerl.gateway.chat import ChatRequest
from swerl.gateway.parsers import _possible
from swerl.gateway.template import ChatTemplate

SAID = "I will look at the file first."
APIS = {
    "chat/completions": {"messages": [{"role": "user", "content": "go"}], "tools": TOOLS},
    "messages": {
        "max_tokens": 400,
        "messages": [{"role": "user", "content": "go"}],
        "tools": [{"name": "bash", "input_schema": TOOLS[0]["function"]["parameters"]}],
    },
    "responses": {"input": "go", "tools": [{"type": "function", **TOOLS[0]["function"]}]},
}


def texts(api: str, events: list[dict]) -> list[str]:
    if api == "chat/completions":
        return [c["delta"]["content"] for e in events for c in e["choices"] if c["delta"].get("content")]
    if api == "messages":
        return [e["delta"]["text"] for e in events if e["type"] == "content_block_delta" and e["delta"]["type"] == "text_delta"]
    return [e["delta"] for e in events if e["type"] == "response.output_text.delta"]


class Stream:
    """A client that reads a stream event by event."""

    def __init__(self, response):
        self._response, self.events = response, []

    async def until(self, enough) -> None:
        async for line in self._response.content:
            if line.startswith(b"data: {"):
                self.events.append(json.loads(line[6:]))
                if enough(self.events):
                    return
        assert enough is never, "the stream is over"


def never(events: list) -> bool:
    return False


def played(tmp_path, model_dir, vllm_reader, say, body):
    async def main():
        engine = FakeVllm(say)
        await engine.start()
        async with gateway_on(tmp_path, model_dir, vllm_reader, keepalive_s=0.2) as kit:
            await kit.admin("POST", "/engine", {"kind": "vllm", "url": engine.url, "epoch": 1})
            await body(kit, engine)
        await engine.stop()

    asyncio.run(main())


@pytest.mark.parametrize("api", APIS)
def test_text_leaves_while_it_is_sampled(tmp_path, model_dir, vllm_reader, api):
    template = ChatTemplate(model_dir)
    (stop,) = [i for i, t in template.stop_texts.items() if t == "<|im_end|>"]
    front = template.tokenizer.encode(SAID)
    whole = [*front, *template.tokenizer.encode("\n" + call_text("ls")), stop]

    async def body(kit, engine):
        engine.hold_at = len(front) + 1
        session, key = await kit.open()
        url = f"{kit.gateway.public_url}/t/{key}/v1/{api}"
        async with kit.client.post(url, json={**APIS[api], "model": "m", "stream": True}) as response:
            stream = Stream(response)
            await asyncio.wait_for(stream.until(lambda events: "".join(texts(api, events)) == SAID), 20)
            assert (await kit.recording(session))["turns"] == 0  # the engine is still at it
            engine.go.set()
            await stream.until(never)
        assert "".join(texts(api, stream.events)).rstrip() == SAID
        recording = await kit.recording(session)
        assert recording["paths"][0]["response_ids"] == whole and recording["turns"] == 1
        (stored,) = kit.gateway.store.live()[0].tree.turns
        assert stored.answer.tool_calls[0].arguments == '{"command": "ls"}' and stored.delivered and stored.cached_tokens == 3
        told = json.dumps(stream.events)
        times = 5 if api == "responses" else 1  # that API says a text again: at the end of text, part, item and response
        assert stored.answer.tool_calls[0].id in told and told.count("look at the file") == times
        if api == "responses":
            assert [e["sequence_number"] for e in stream.events] == list(range(len(stream.events)))

    played(tmp_path, model_dir, vllm_reader, lambda number, prompt: whole, body)


def test_a_broken_connection_keeps_what_has_come(tmp_path, model_dir, vllm_reader):
    template = ChatTemplate(model_dir)
    (stop,) = [i for i, t in template.stop_texts.items() if t == "<|im_end|>"]
    whole = [*template.tokenizer.encode(SAID), stop]

    async def body(kit, engine):
        engine.break_at = 4
        session, key = await kit.open()
        url = f"{kit.gateway.public_url}/t/{key}/v1/chat/completions"
        async with kit.client.post(url, json={"messages": [{"role": "user", "content": "go"}], "stream": True}) as response:
            stream = Stream(response)
            await stream.until(never)
        assert "".join(texts("chat/completions", stream.events)) == SAID
        assert [len(r["token_ids"]) - len(engine.requests[0]["token_ids"]) for r in engine.requests] == [0, 4]
        (path,) = (await kit.recording(session))["paths"]
        assert path["response_ids"] == whole and path["response_logprobs"][4] == -0.5

    played(tmp_path, model_dir, vllm_reader, lambda number, prompt: whole[4:] if number else whole, body)


def test_what_was_sent_and_sampled_anew_is_an_error_and_the_retry_gets_the_turn(tmp_path, model_dir, vllm_reader):
    template = ChatTemplate(model_dir)
    (stop,) = [i for i, t in template.stop_texts.items() if t == "<|im_end|>"]
    first, second = ([*template.tokenizer.encode(text), stop] for text in (SAID, "Another thought."))

    async def body(kit, engine):
        engine.hold_at = engine.fail_at = len(first) - 1
        session, key = await kit.open()
        url, ask = f"{kit.gateway.public_url}/t/{key}/v1/chat/completions", {"messages": [{"role": "user", "content": "go"}]}
        async with kit.client.post(url, json={**ask, "stream": True}) as response:
            stream = Stream(response)
            await asyncio.wait_for(stream.until(lambda events: texts("chat/completions", events) != []), 20)
            engine.go.set()
            await stream.until(never)
        assert stream.events[-1]["error"]["code"] == "engine_error"
        async with kit.client.post(url, json=ask) as response:
            assert (await response.json())["choices"][0]["message"]["content"] == "Another thought."
        assert (await kit.recording(session))["turns"] == 1 and len(engine.requests) == 2

    played(tmp_path, model_dir, vllm_reader, lambda number, prompt: second if number else first, body)


def test_only_what_stands_is_certain(model_dir, vllm_reader):
    encode = ChatTemplate(model_dir).tokenizer.encode
    with_tools, plain = ChatRequest((), tuple(TOOLS)), ChatRequest(())
    stopping = ChatRequest((), stop=("END",))
    assert vllm_reader.certain(encode("so be it "), with_tools) == "so be it"
    assert vllm_reader.certain(encode("a < b"), plain) == "a < b"
    assert vllm_reader.certain(encode("look <tool_"), with_tools) == "look"
    assert vllm_reader.certain(encode("look <tool_call>\n{"), with_tools) == "look"
    assert vllm_reader.certain(encode("look <tool_call>\n{"), plain) == "look <tool_call>\n{"
    assert vllm_reader.certain(encode("the EN"), stopping) == "the " and vllm_reader.certain(encode("the END is"), stopping) == "the "
    assert vllm_reader.certain(encode("😀")[:-1], plain) == ""


@pytest.mark.parametrize(
    ("text", "sequence", "at"), [("abc", "cd", 2), ("abc", "x", 3), ("abcab", "ab", 0), ("", "ab", 0), ("ab", "bcb", 1)]
)
def test_where_a_sequence_may_begin(text, sequence, at):
    assert _possible(text, sequence) == at


@pytest.mark.parametrize(("health", "status"), [(200, 502), (503, None)])
def test_a_server_that_fails_a_request_is_away_where_its_engine_is_dead(tmp_path, model_dir, vllm_reader, health, status):
    """Then the agent waits for the next one; a request that a healthy server fails again and again is refused."""

    async def main():
        first = FakeVllm(lambda number, prompt: [])
        first.health = health
        await first.start()
        async with gateway_on(tmp_path, model_dir, vllm_reader) as kit:
            stop = sorted(kit.gateway.template.stop_ids)[0]
            first.say = lambda number, prompt: [5, stop]
            failing = asyncio.create_task(_fail_for_ever(first))
            await kit.admin("POST", "/engine", {"kind": "vllm", "url": first.url, "epoch": 1})
            _, key = await kit.open()
            asked = asyncio.create_task(kit.chat(key, [{"role": "user", "content": "go"}], status=status or 200))
            if status is None:
                await asyncio.sleep(2.0)
                assert not asked.done() and first.requests
                other = FakeVllm(lambda number, prompt: [5, stop])
                await other.start()
                await kit.admin("POST", "/engine", {"kind": "vllm", "url": other.url, "epoch": 2})
                await asked
                await other.stop()
            else:
                assert (await asked)["error"]["code"] == "engine_error"
            failing.cancel()
        await first.stop()

    async def _fail_for_ever(engine: FakeVllm) -> None:
        while True:
            engine.fail_at = 0
            await asyncio.sleep(0.001)

    asyncio.run(main())
