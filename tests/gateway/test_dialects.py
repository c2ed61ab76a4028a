"""The three APIs through their own SDKs: one conversation, the same tokens, whichever way it is told."""

from __future__ import annotations

import asyncio
import json

import anthropic
import openai
import pytest
from gatewaykit import CHATML, TOOLS, call_text, running, write_model

from swerl.gateway.dialects.anthropic_messages import AnthropicMessages
from swerl.gateway.dialects.openai_responses import OpenAIResponses
from swerl.gateway.engines.scripted import ScriptTurn
from swerl.gateway.errors import ApiError, context_overflow
from swerl.gateway.history import Histories

SYSTEM, USER = "Fix the bug.", "f(1) returns 2"
COMMANDS = ["cat -n a.py", "sed -i 's/a/b/' a.py"]
RESULTS = ["     1\tdef f(x):", "(no output)"]


def says(turn: ScriptTurn) -> str:
    return [f"Look. {call_text(COMMANDS[0])}", call_text(COMMANDS[1]), "It is done."][turn.turn]


async def chat(kit, key: str, stream: bool) -> str:
    client = openai.AsyncOpenAI(base_url=f"{kit.gateway.public_url}/t/{key}/v1", api_key="unused", max_retries=0)
    messages: list = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": [{"type": "text", "text": USER}]}]
    for result in (*RESULTS, None):
        asked = {"model": "any", "messages": messages, "tools": TOOLS}
        if stream:
            async with client.chat.completions.stream(**asked, stream_options={"include_usage": True}) as events:
                answer = await events.get_final_completion()
        else:
            answer = await client.chat.completions.create(**asked)
        assert answer.usage.completion_tokens > 0
        message = answer.choices[0].message
        if result is None:
            assert answer.choices[0].finish_reason == "stop"
            return message.content
        call = message.tool_calls[0]
        assert json.loads(call.function.arguments)["command"] == COMMANDS[RESULTS.index(result)]
        arguments = json.dumps(json.loads(call.function.arguments), indent=1)  # as clients that parse and write again do
        messages.append(
            {
                "role": "assistant",
                "content": message.content,
                "tool_calls": [{"id": call.id, "type": "function", "function": {"name": call.function.name, "arguments": arguments}}],
            }
        )
        messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    raise AssertionError


async def messages_api(kit, key: str, stream: bool) -> str:
    client = anthropic.AsyncAnthropic(base_url=f"{kit.gateway.public_url}/t/{key}", api_key="unused", max_retries=0)
    tools = [
        {"name": t["function"]["name"], "description": t["function"]["description"], "input_schema": t["function"]["parameters"]}
        for t in TOOLS
    ]
    system = [{"type": "text", "text": "x-anthropic-billing-header: cc_version=2"}, {"type": "text", "text": SYSTEM}]
    history: list = [{"role": "user", "content": [{"type": "text", "text": USER}]}]
    for result in (*RESULTS, None):
        history[-1]["content"][-1]["cache_control"] = {"type": "ephemeral"}  # the mark moves along, as Claude Code moves it
        asked = {"model": "claude-any", "max_tokens": 400, "system": system, "messages": history, "tools": tools}
        if stream:
            async with client.messages.stream(**asked) as events:
                answer = await events.get_final_message()
        else:
            answer = await client.messages.create(**asked)
        assert answer.usage.output_tokens > 0
        history[-1]["content"][-1].pop("cache_control")
        if result is None:
            assert answer.stop_reason == "end_turn"
            return answer.content[0].text
        assert answer.stop_reason == "tool_use"
        call = answer.content[-1]
        assert call.input["command"] == COMMANDS[RESULTS.index(result)]
        history.append({"role": "assistant", "content": [b.model_dump(exclude_none=True) for b in answer.content]})
        history.append(
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": result}]}]}
        )
    raise AssertionError


async def responses_api(kit, key: str, stream: bool) -> str:
    client = openai.AsyncOpenAI(base_url=f"{kit.gateway.public_url}/t/{key}/v1", api_key="unused", max_retries=0)
    function = TOOLS[0]["function"]
    tools = [{"type": "function", **function, "strict": False}, {"type": "web_search"}]
    items: list = [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": USER}]}]
    for result in (*RESULTS, None):
        asked = {"model": "any", "instructions": SYSTEM, "input": items, "tools": tools, "store": False}
        if stream:
            async with client.responses.stream(**asked) as events:
                answer = await events.get_final_response()
        else:
            answer = await client.responses.create(**asked)
        assert answer.usage.output_tokens > 0 and answer.status == "completed"
        if result is None:
            return answer.output_text
        items += [item.model_dump(exclude_none=True, exclude={"parsed_arguments", "parsed"}) for item in answer.output]
        call = next(item for item in answer.output if item.type == "function_call")
        assert json.loads(call.arguments)["command"] == COMMANDS[RESULTS.index(result)]
        items.append({"type": "function_call_output", "call_id": call.call_id, "output": result})
    raise AssertionError


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_one_conversation_gives_the_same_tokens_through_every_api(tmp_path, model_dir, vllm_reader, stream):
    async def main():
        async with running(tmp_path, model_dir, vllm_reader, says) as kit:
            rows = []
            for talk in (chat, messages_api, responses_api):
                session, key = await kit.open()
                assert await talk(kit, key, stream) == "It is done."
                recording = await kit.recording(session)
                assert recording["turns"] == 3 and recording["side_calls"] == 0
                (path,) = recording["paths"]
                rows.append((path["prompt_ids"], path["response_ids"], path["response_mask"], path["response_logprobs"]))
            assert rows[0] == rows[1] == rows[2]

    asyncio.run(main())


def test_tokens_are_counted_without_a_turn(tmp_path, model_dir, vllm_reader):
    async def main():
        async with running(tmp_path, model_dir, vllm_reader, says) as kit:
            session, key = await kit.open()
            client = anthropic.AsyncAnthropic(base_url=f"{kit.gateway.public_url}/t/{key}", api_key="unused")
            asked = {"model": "m", "system": SYSTEM, "messages": [{"role": "user", "content": USER}]}
            counted = await client.messages.count_tokens(**asked)
            answer = await client.messages.create(**asked, max_tokens=100)
            assert counted.input_tokens == answer.usage.input_tokens
            assert (await kit.recording(session))["turns"] == 1

    asyncio.run(main())


def test_sdks_understand_overflow_and_closed_sessions(tmp_path, model_dir, vllm_reader):
    async def main():
        async with running(tmp_path, model_dir, vllm_reader, says, window_tokens=40) as kit:
            session, key = await kit.open()
            long = "word " * 100
            claude = anthropic.AsyncAnthropic(base_url=f"{kit.gateway.public_url}/t/{key}", api_key="unused")
            codex = openai.AsyncOpenAI(base_url=f"{kit.gateway.public_url}/t/{key}/v1", api_key="unused")
            with pytest.raises(anthropic.BadRequestError, match="prompt is too long"):
                await claude.messages.create(model="m", max_tokens=5, messages=[{"role": "user", "content": long}])
            for asked in (
                codex.responses.create(model="m", input=long),
                codex.chat.completions.create(model="m", messages=[{"role": "user", "content": long}]),
            ):
                with pytest.raises(openai.BadRequestError) as caught:
                    await asked
                assert caught.value.code == "context_length_exceeded"
            assert kit.engine.requests == [], "a conversation that is too long is refused at once, and not tried again"
            await kit.admin("POST", f"/sessions/{session}/close", {})
            with pytest.raises(anthropic.AuthenticationError):
                await claude.messages.create(model="m", max_tokens=5, messages=[{"role": "user", "content": "x"}])
            with pytest.raises(openai.AuthenticationError):
                await codex.responses.create(model="m", input="x")

    asyncio.run(main())


def test_thinking_goes_out_and_comes_back(tmp_path):
    """With a reasoning parser, thinking blocks are given out; a client that drops or keeps them stays on one path."""
    from swerl.gateway.parsers import VllmParsers
    from swerl.gateway.template import ChatTemplate

    (tmp_path / "policy").mkdir()
    model_dir = write_model(tmp_path / "policy", CHATML, more_tokens=("<think>", "</think>"))
    reader = VllmParsers(model_dir, ChatTemplate(model_dir), "auto", "deepseek_r1")

    async def main():
        think = lambda t: f"<think>\nhm {t.turn}\n</think>\n\n" + (call_text("ls") if t.turn < 2 else "Done.")  # noqa: E731
        async with running(tmp_path, model_dir, reader, think) as kit:
            session, key = await kit.open()
            client = anthropic.AsyncAnthropic(base_url=f"{kit.gateway.public_url}/t/{key}", api_key="unused")
            tools = [{"name": "bash", "input_schema": TOOLS[0]["function"]["parameters"]}]
            history: list = [{"role": "user", "content": USER}]
            for keep in (True, False):
                async with client.messages.stream(model="m", max_tokens=400, messages=history, tools=tools) as events:
                    answer = await events.get_final_message()
                assert [b.type for b in answer.content] == ["thinking", "tool_use"] and "hm" in answer.content[0].thinking
                kept = [b.model_dump(exclude_none=True) for b in answer.content if keep or b.type != "thinking"]
                history.append({"role": "assistant", "content": kept})
                history.append({"role": "user", "content": [{"type": "tool_result", "tool_use_id": answer.content[1].id, "content": "x"}]})
            answer = await client.messages.create(model="m", max_tokens=400, messages=history, tools=tools)
            assert answer.content[-1].text.strip() == "Done."
            (path,) = (await kit.recording(session))["paths"]
            text = kit.gateway.template.tokenizer.decode(path["response_ids"], skip_special=False)
            assert [f"hm {i}" in text for i in range(3)] == [True] * 3

    asyncio.run(main())


def test_claude_codes_system_notes_inside_the_history():
    body = {
        "messages": [
            {"role": "user", "content": "task"},
            {"role": "system", "content": [{"type": "text", "text": "agents: none"}]},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "Bash", "input": {"command": "ls"}}]},
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "out"}, {"type": "text", "text": "note"}],
            },
        ],
        "tools": [{"name": "Bash", "input_schema": {}}, {"type": "web_search_20250305", "name": "web_search"}],
        "tool_choice": {"type": "auto"},
    }
    request = AnthropicMessages().parse(body, {}, 0, Histories())
    assert [(m.role, m.text) for m in request.messages] == [
        ("user", "task"),
        ("system", "agents: none"),
        ("assistant", ""),
        ("tool", "out"),
        ("user", "note"),
    ]
    assert [t["function"]["name"] for t in request.tools] == ["Bash"]


@pytest.mark.parametrize(
    ("dialect", "body"),
    [
        (AnthropicMessages(), {"messages": []}),
        (AnthropicMessages(), {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}),
        (AnthropicMessages(), {"messages": [{"role": "user", "content": "x"}], "tool_choice": {"type": "any"}}),
        (AnthropicMessages(), {"messages": [{"role": "user", "content": "x"}], "max_tokens": 0}),
        (OpenAIResponses(), {}),
        (OpenAIResponses(), {"input": "x", "previous_response_id": "resp_1"}),
        (OpenAIResponses(), {"input": [{"type": "computer_call"}]}),
        (OpenAIResponses(), {"input": "x", "tools": [{"type": "function"}]}),
        (OpenAIResponses(), {"input": "x", "text": {"format": {"type": "json_schema"}}}),
    ],
)
def test_bad_requests_are_refused(dialect, body):
    with pytest.raises(ApiError) as caught:
        dialect.parse(body, {}, 0, Histories())
    assert caught.value.status == 400


def test_errors_have_each_apis_own_form():
    overflow = context_overflow(500, 400)
    claude = AnthropicMessages().error(overflow)
    assert (
        claude["type"] == "error"
        and claude["error"]["type"] == "invalid_request_error"
        and claude["error"]["message"].startswith("prompt is too long")
    )
    assert AnthropicMessages().stream_error(overflow).startswith(b"event: error\n")
    assert OpenAIResponses().error(overflow)["error"]["code"] == "context_length_exceeded"
    assert b'"type":"response.failed"' in OpenAIResponses().stream_error(overflow)
