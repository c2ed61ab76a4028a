"""What every API has under its own names, as plain JSON: calls, reasoning, usage, endings."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import pytest
from fake_vllm import FakeVllm
from gatewaykit import CHATML, TOOLS, call_text, gateway_on, running, write_model

from swerl.gateway.engines.scripted import ScriptReply

FUNCTION = TOOLS[0]["function"]


@dataclass
class Said:
    """An answer, whatever API it came through. ``items`` are what the client sends back of it."""

    text: str
    reasoning: str
    calls: list[tuple[str, dict]]
    prompt: int
    cached: int
    output: int
    ending: str | None
    items: list[Any]


class Chat:
    path, stops = "v1/chat/completions", "stop"

    def begin(self, text: str) -> list:
        return [{"role": "user", "content": text}]

    def body(self, history: list) -> dict:
        return {"messages": history, "tools": TOOLS}

    def said(self, body: dict) -> Said:
        (choice,), usage = body["choices"], body["usage"]
        message = choice["message"]
        calls = [(c["id"], json.loads(c["function"]["arguments"])) for c in message.get("tool_calls") or ()]
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        ending, reasoning = choice["finish_reason"], message.get("reasoning_content") or ""
        return Said(
            message["content"] or "", reasoning, calls, usage["prompt_tokens"], cached, usage["completion_tokens"], ending, [message]
        )

    def results(self, results: dict[str, str]) -> list:
        return [{"role": "tool", "tool_call_id": id, "content": text} for id, text in results.items()]


class Messages:
    path, stops = "v1/messages", "stop_sequences"

    def begin(self, text: str) -> list:
        return [{"role": "user", "content": text}]

    def body(self, history: list) -> dict:
        tools = [{"name": FUNCTION["name"], "description": FUNCTION["description"], "input_schema": FUNCTION["parameters"]}]
        return {"messages": history, "tools": tools, "max_tokens": 400}

    def said(self, body: dict) -> Said:
        usage, content = body["usage"], body["content"]
        text = "".join(b["text"] for b in content if b["type"] == "text")
        reasoning = "".join(b["thinking"] for b in content if b["type"] == "thinking")
        calls = [(b["id"], b["input"]) for b in content if b["type"] == "tool_use"]
        cached = usage["cache_read_input_tokens"]
        items = [{"role": "assistant", "content": content}]
        ending = f"{body['stop_reason']} {body['stop_sequence']}" if body["stop_sequence"] else body["stop_reason"]
        return Said(text, reasoning, calls, usage["input_tokens"] + cached, cached, usage["output_tokens"], ending, items)

    def results(self, results: dict[str, str]) -> list:
        return [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": id, "content": text} for id, text in results.items()]}]


class Responses:
    path, stops = "v1/responses", None

    def begin(self, text: str) -> list:
        return [{"type": "message", "role": "user", "content": text}]

    def body(self, history: list) -> dict:
        return {"input": history, "tools": [{"type": "function", **FUNCTION}]}

    def said(self, body: dict) -> Said:
        output, usage = body["output"], body["usage"]
        text = "".join(p["text"] for i in output if i["type"] == "message" for p in i["content"])
        reasoning = "".join(p["text"] for i in output if i["type"] == "reasoning" for p in i["content"])
        calls = [(i["call_id"], json.loads(i["arguments"])) for i in output if i["type"] == "function_call"]
        cached = usage["input_tokens_details"]["cached_tokens"]
        return Said(text, reasoning, calls, usage["input_tokens"], cached, usage["output_tokens"], body["status"], output)

    def results(self, results: dict[str, str]) -> list:
        return [{"type": "function_call_output", "call_id": id, "output": text} for id, text in results.items()]


APIS = [Chat(), Messages(), Responses()]
every_api = pytest.mark.parametrize("api", APIS, ids=lambda api: type(api).__name__)


async def ask(kit, key: str, api, history: list, **more) -> Said:
    async with kit.client.post(
        f"{kit.gateway.public_url}/t/{key}/{api.path}", json={"model": "m", **api.body(history), **more}
    ) as response:
        assert response.status == 200, await response.text()
        return api.said(await response.json())


@every_api
def test_parallel_calls_and_their_results_stay_on_one_path(tmp_path, model_dir, vllm_reader, api):
    async def main():
        says = lambda turn: [f"{call_text('ls')}\n{call_text('pwd')}", "Done."][turn.turn]  # noqa: E731
        async with running(tmp_path, model_dir, vllm_reader, says) as kit:
            session, key = await kit.open()
            history = api.begin("go")
            first = await ask(kit, key, api, history)
            assert [arguments for _, arguments in first.calls] == [{"command": "ls"}, {"command": "pwd"}]
            assert len({id for id, _ in first.calls}) == 2
            history = [*history, *first.items, *api.results({id: f"result of {a['command']}" for id, a in first.calls})]
            assert (await ask(kit, key, api, history)).text == "Done."
            recording = await kit.recording(session)
            (path,) = recording["paths"]
            prompt = kit.engine.requests[1]["prompt_ids"]
            assert (path["prompt_ids"] + path["response_ids"])[: len(prompt)] == prompt and recording["turns"] == 2
            text = kit.gateway.template.tokenizer.decode(prompt, skip_special=False)
            assert text.count("result of ls") == text.count("result of pwd") == 1

    asyncio.run(main())


@every_api
@pytest.mark.parametrize("keeps", [True, False], ids=["kept", "dropped"])
def test_reasoning_goes_out_and_comes_back_or_not(tmp_path, tmp_path_factory, api, keeps):
    from swerl.gateway.parsers import VllmParsers
    from swerl.gateway.template import ChatTemplate

    model_dir = write_model(tmp_path_factory.mktemp("policy"), CHATML, more_tokens=("<think>", "</think>"))
    reader = VllmParsers(model_dir, ChatTemplate(model_dir), "auto", "deepseek_r1")

    async def main():
        think = lambda t: f"<think>\nhm {t.turn}\n</think>\n\n" + (call_text("ls") if t.turn < 1 else "Done.")  # noqa: E731
        async with running(tmp_path, model_dir, reader, think) as kit:
            session, key = await kit.open()
            history = api.begin("go")
            first = await ask(kit, key, api, history)
            assert "hm 0" in first.reasoning and "hm" not in first.text and first.calls
            items = first.items if keeps else without_reasoning(first.items)
            last = await ask(kit, key, api, [*history, *items, *api.results({first.calls[0][0]: "out"})])
            assert last.text.strip() == "Done." and "hm 1" in last.reasoning
            (path,) = (await kit.recording(session))["paths"]
            text = kit.gateway.template.tokenizer.decode(path["response_ids"], skip_special=False)
            assert text.count("hm 0") == text.count("hm 1") == 1, "the policy sees its own thoughts, whatever the client kept of them"

    asyncio.run(main())


def without_reasoning(items: list) -> list:
    """As clients that do not know of reasoning send an answer back, in any API."""
    kept = []
    for item in items:
        if item.get("type") == "reasoning":
            continue
        item = {name: value for name, value in item.items() if name != "reasoning_content"}
        if item.get("role") == "assistant" and isinstance(item.get("content"), list):
            item["content"] = [b for b in item["content"] if b.get("type") != "thinking"]
        kept.append(item)
    return kept


@every_api
def test_usage_tells_of_cached_tokens(tmp_path, model_dir, vllm_reader, api):
    async def main():
        engine = FakeVllm(lambda number, prompt: vllm_reader._template.tokenizer.encode("hi there"))
        await engine.start()
        async with gateway_on(tmp_path, model_dir, vllm_reader) as kit:
            await kit.admin("POST", "/engine", {"kind": "vllm", "url": engine.url, "epoch": 1})
            session, key = await kit.open()
            said = await ask(kit, key, api, api.begin("go"))
            (path,) = (await kit.recording(session))["paths"]
            assert (said.prompt, said.cached, said.output) == (len(path["prompt_ids"]), 3, len(path["response_ids"]))
        await engine.stop()

    asyncio.run(main())


@every_api
def test_endings_in_each_apis_words(tmp_path, model_dir, vllm_reader, api):
    words = {
        Chat: ("stop", "tool_calls", "length", "stop"),
        Messages: ("end_turn", "tool_use", "max_tokens", "stop_sequence END"),
        Responses: ("completed", "completed", "incomplete", None),
    }[type(api)]
    replies = [ScriptReply("Done."), ScriptReply(call_text("ls")), ScriptReply("cut", end=False), ScriptReply("so END", end=False)]

    async def main():
        async with running(tmp_path, model_dir, vllm_reader, lambda turn: replies[turn.turn]) as kit:
            _, key = await kit.open()
            found = [(await ask(kit, key, api, api.begin(f"go {i}"))).ending for i in range(3)]
            assert tuple(found) == words[:3]
            if api.stops is not None:  # a stop that the engine found reads like any other end, but for the API that names it
                stopping = ScriptReply(token_ids=[*vllm_reader._template.tokenizer.encode("so END")], end=True)
                replies[3] = stopping
                last = await ask(kit, key, api, api.begin("go 3"), **{api.stops: ["END"]})
                assert (last.text, last.ending) == ("so ", words[3])

    asyncio.run(main())


@every_api
def test_any_model_name_in_every_api(tmp_path, model_dir, vllm_reader, api):
    async def main():
        async with running(tmp_path, model_dir, vllm_reader, lambda turn: "hi") as kit:
            _, key = await kit.open()
            for name in ("claude-opus-4-1", "gpt-5", "hosted_vllm/x", ""):
                body = {**api.body(api.begin(name or "none")), "model": name}
                async with kit.client.post(f"{kit.gateway.public_url}/t/{key}/{api.path}", json=body) as response:
                    assert response.status == 200 and (await response.json())["model"] == name

    asyncio.run(main())


def test_a_sub_agent_is_a_path_of_its_own_and_never_the_main_one(tmp_path, model_dir, vllm_reader):
    api = Messages()

    async def main():
        async with running(tmp_path, model_dir, vllm_reader, lambda turn: call_text("ls") if turn.turn < 3 else "Done.") as kit:
            session, key = await kit.open()
            main_history, sub_history = api.begin("the task"), api.begin("look into it")
            for system, history in (("main", main_history), ("sub", sub_history), ("sub", sub_history), ("main", main_history)):
                said = await ask(kit, key, api, history, system=system)
                history += [*said.items, *api.results({id: "out" for id, _ in said.calls})] if said.calls else said.items
            recording = await kit.recording(session)
            sub, main_path = recording["paths"]
            assert (sub["main"], main_path["main"]) == (False, True) and recording["side_calls"] == 0
            decode = kit.gateway.template.tokenizer.decode
            assert "the task" in decode(main_path["prompt_ids"], skip_special=False)
            assert "look into it" in decode(sub["prompt_ids"], skip_special=False)
            assert (sub["turns"], main_path["turns"]) == (2, 2)

    asyncio.run(main())
