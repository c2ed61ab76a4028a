"""Whatever JSON a client sends, it is a request or a refusal that names what is wrong: never a failure of the gateway."""

from __future__ import annotations

import copy
import random

import orjson
import pytest
from gatewaykit import TOOLS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swerl.gateway.chat import ChatRequest
from swerl.gateway.dialects.anthropic_messages import AnthropicMessages
from swerl.gateway.dialects.openai_chat import OpenAIChat
from swerl.gateway.dialects.openai_responses import OpenAIResponses
from swerl.gateway.errors import ApiError
from swerl.gateway.history import Histories
from swerl.gateway.placement import Placer
from swerl.gateway.tree import SessionTree, Tokens

FUNCTION = TOOLS[0]["function"]
SAMPLING = {"temperature": 0.5, "top_p": 0.9, "stream": True, "model": "m"}
BODIES = {
    OpenAIChat(): {
        **SAMPLING,
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": [{"type": "text", "text": "u"}]},
            {
                "role": "assistant",
                "content": None,
                "reasoning_content": "r",
                "tool_calls": [{"id": "a", "type": "function", "function": {"name": "bash", "arguments": "{}"}}],
            },
            {"role": "tool", "tool_call_id": "a", "content": "out"},
        ],
        "tools": TOOLS,
        "tool_choice": "auto",
        "stop": ["END"],
        "max_tokens": 10,
        "stream_options": {"include_usage": True},
        "chat_template_kwargs": {"x": 1},
    },
    AnthropicMessages(): {
        **SAMPLING,
        "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}],
        "messages": [
            {"role": "user", "content": "u"},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "r", "signature": "x"},
                    {"type": "text", "text": "t"},
                    {"type": "tool_use", "id": "a", "name": "bash", "input": {"command": "ls"}},
                ],
            },
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "out"}]}]},
        ],
        "tools": [{"name": "bash", "description": "d", "input_schema": FUNCTION["parameters"]}],
        "tool_choice": {"type": "auto"},
        "stop_sequences": ["END"],
        "max_tokens": 10,
        "thinking": {"type": "enabled", "budget_tokens": 5},
    },
    OpenAIResponses(): {
        **SAMPLING,
        "instructions": "s",
        "input": [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "u"}]},
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "r"}]},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "t"}]},
            {"type": "function_call", "call_id": "a", "name": "bash", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "a", "output": "out"},
        ],
        "tools": [{"type": "function", **FUNCTION}, {"type": "web_search"}],
        "tool_choice": "auto",
        "text": {"format": {"type": "text"}},
        "max_output_tokens": 10,
    },
}
DEEP = orjson.loads(b'{"a":' * 700 + b"1" + b"}" * 700)
PLAIN = [None, True, 0, -1, 1.5, 1e308, 2**63, "", "x", "😀\x00"]
LEAVES = [*PLAIN, [], {}, [None], [[]], {"type": "text"}, {"text": None}, {"a": {"b": [1]}}, DEEP]


def spots(value: object) -> list[tuple]:
    """Every container and key in it."""
    found = []
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        found += [(value, key), *spots(inner)]
    return found


def spoilt(body: dict, rng: random.Random) -> dict:
    body = copy.deepcopy(body)
    for _ in range(rng.randrange(1, 4)):
        places = spots(body)
        if not places:
            break
        container, key = rng.choice(places)
        if rng.random() < 0.2:
            del container[key]
        else:
            container[key] = copy.deepcopy(rng.choice(LEAVES))
    return body


@pytest.mark.parametrize("dialect", BODIES, ids=lambda d: type(d).__name__)
def test_a_whole_body_is_served(template, dialect):
    request = dialect.parse(BODIES[dialect], {}, 0, Histories())
    assert [m.role for m in request.messages] == ["system", "user", "assistant", "tool"] and len(request.tools) == 1
    assert request.messages[2].tool_calls[0].id == request.messages[3].tool_call_id == "a"


@pytest.mark.parametrize("dialect", BODIES, ids=lambda d: type(d).__name__)
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32))
def test_any_json_is_a_request_or_a_refusal(template, dialect, seed):
    rng, seen = random.Random(seed), Histories()
    placer = Placer(template, lambda _, run, r: Tokens.of(template.prompt(run, r.tools, **r.template_kwargs)))
    tree = SessionTree()
    for _ in range(3):  # what an earlier request of the session left behind must not matter
        body = spoilt(BODIES[dialect], rng)
        try:
            request = dialect.parse(body, {"x-stainless-retry-count": "x"}, 0, seen)
            assert isinstance(request, ChatRequest)
            placer.place(tree, request)
        except ApiError as error:
            assert 400 <= error.status < 500 and error.message
            assert orjson.dumps(dialect.error(error))
