"""Anthropic messages, plain and streamed, and the counting of tokens.

What this API has and the internal form does not: content blocks (joined, or split off as calls, results and reasoning), system text as a
field of its own and inside the history, ``cache_control`` marks and billing blocks (ignored), thinking blocks with a signature (given out
with one of ours, and taken back).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from swerl.gateway.chat import ChatRequest, Message, ToolCall, parsed_arguments
from swerl.gateway.dialects.base import Reply, event, is_retry, joined_text, number, stops, written
from swerl.gateway.errors import ApiError, bad_request
from swerl.gateway.history import Histories, flatten

_TEXT = frozenset({"text"})
_STOP = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
_BILLING = "x-anthropic-billing-header:"
_SIGNATURE = "c3dlcmw="  # clients send it back as it is; nothing here depends on it
_ERROR_TYPES = {401: "authentication_error", 404: "not_found_error", 413: "request_too_large", 429: "rate_limit_error"}


class AnthropicMessages:
    keepalive = b'event: ping\ndata: {"type":"ping"}\n\n'

    def parse(self, body: Mapping[str, Any], headers: Mapping[str, str], size_bytes: int, seen: Histories) -> ChatRequest:
        listed = body.get("messages")
        if not isinstance(listed, list) or not listed:
            raise bad_request("messages: at least one message is required", param="messages")
        max_tokens = number(body, "max_tokens", int)
        if max_tokens is not None and max_tokens < 1:
            raise bad_request("max_tokens: must be at least 1", param="max_tokens")
        items = [_System(body.get("system")), *listed]
        conversation = seen.recall(items, body.get("tools"), {}, _item, _tools)
        flat, same = flatten(conversation.converted, conversation.same_items)
        return ChatRequest(
            messages=flat,
            tools=conversation.tools,
            tool_choice=_tool_choice(body.get("tool_choice")),
            model=str(body.get("model") or ""),
            stream=bool(body.get("stream")),
            max_tokens=max_tokens,
            temperature=number(body, "temperature"),
            top_p=number(body, "top_p"),
            top_k=number(body, "top_k", int),
            stop=stops(body.get("stop_sequences"), "stop_sequences"),
            retry=is_retry(headers),
            size_bytes=size_bytes,
            preamble=conversation.preamble,
            same_messages=same,
            conversation=conversation,
        )

    def answer(self, reply: Reply) -> dict[str, Any]:
        return {
            **_head(reply),
            "content": _blocks(reply),
            **_ending(reply),
            "usage": {**_input_usage(reply), "output_tokens": reply.turn.tokens.count},
        }

    def stream(self, reply: Reply) -> Iterator[bytes]:
        start = {**_head(reply), "content": [], "stop_reason": None, "stop_sequence": None}
        yield _named({"type": "message_start", "message": {**start, "usage": {**_input_usage(reply), "output_tokens": 0}}})
        for i, block in enumerate(_blocks(reply)):
            opened, deltas = _as_deltas(block, reply)
            yield _named({"type": "content_block_start", "index": i, "content_block": opened})
            for delta in deltas:
                yield _named({"type": "content_block_delta", "index": i, "delta": delta})
            if not reply.whole:
                return
            yield _named({"type": "content_block_stop", "index": i})
        yield _named(
            {"type": "message_delta", "delta": _ending(reply), "usage": {**_input_usage(reply), "output_tokens": reply.turn.tokens.count}}
        )
        yield _named({"type": "message_stop"})

    def error(self, error: ApiError) -> dict[str, Any]:
        kind = _ERROR_TYPES.get(error.status, "api_error" if error.status >= 500 else "invalid_request_error")
        message = error.message
        if error.code == "context_length_exceeded":
            message = f"prompt is too long: {message}"  # by these words Anthropic's clients know that the context is full
        return {"type": "error", "error": {"type": kind, "message": message}}

    def stream_error(self, error: ApiError) -> bytes:
        return event(self.error(error), "error")


@dataclass(frozen=True)
class _System:
    """The field ``system``, as the first item of the history."""

    value: Any


def _item(value: Any, at: int) -> tuple[Message, ...]:
    if isinstance(value, _System):
        return (Message("system", text),) if (text := _system(value.value)) else ()
    return tuple(_messages(value, f"messages.{at - 1}"))


def _messages(value: Any, param: str) -> Iterator[Message]:
    """One message of the API is one of ours, or several: tool results stand beside text in a user message."""
    if not isinstance(value, dict) or value.get("role") not in ("user", "assistant", "system"):
        raise bad_request(f"{param}.role: must be user or assistant", param=f"{param}.role")
    role, content = value["role"], value.get("content")
    if role == "assistant":
        yield _assistant(content, f"{param}.content")
        return
    texts: list[Any] = []
    for i, block in enumerate(content if isinstance(content, list) else [content]):
        if isinstance(block, dict) and block.get("type") == "tool_result":
            if texts:
                yield Message(role, joined_text(texts, f"{param}.content", _TEXT))
                texts = []
            result = joined_text(block.get("content"), f"{param}.content.{i}.content", _TEXT)
            yield Message("tool", result, tool_call_id=str(block.get("tool_use_id") or ""))
        else:
            texts.append(block)
    if texts:
        yield Message(role, joined_text(texts, f"{param}.content", _TEXT))


def _assistant(content: Any, param: str) -> Message:
    if not isinstance(content, list):
        return Message("assistant", joined_text(content, param, _TEXT))
    texts, reasoning, calls = [], [], []
    for i, block in enumerate(content):
        kind = block.get("type") if isinstance(block, dict) else None
        if kind == "tool_use":
            arguments = written(block.get("input") or {}, f"{param}.{i}.input")
            calls.append(ToolCall(str(block.get("id") or ""), str(block.get("name") or ""), arguments))
        elif kind == "thinking":
            reasoning.append(str(block.get("thinking") or ""))
        elif kind != "redacted_thinking":
            texts.append(joined_text([block], f"{param}.{i}", _TEXT))
    # our own answers have one text block; several are the client's doing and belong together without anything between
    return Message("assistant", "".join(texts), "".join(reasoning) or None, tuple(calls))


def _system(value: Any) -> str:
    if isinstance(value, list):
        value = [b for b in value if not (isinstance(b, dict) and str(b.get("text") or "").startswith(_BILLING))]
    return joined_text(value, "system", _TEXT)


def _tools(value: Any) -> tuple[Mapping[str, Any], ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise bad_request("tools: must be a list", param="tools")
    tools = []
    for i, tool in enumerate(value):
        if not isinstance(tool, dict) or not isinstance(tool.get("name"), str):
            raise bad_request(f"tools.{i}.name: is required", param=f"tools.{i}")
        if "input_schema" not in tool:
            continue  # a tool that Anthropic's servers run (web search): there is none here
        function = {"name": tool["name"], "description": tool.get("description") or "", "parameters": tool["input_schema"]}
        tools.append({"type": "function", "function": function})
    return tuple(tools)


def _tool_choice(value: Any) -> str:
    kind = value.get("type") if isinstance(value, dict) else value
    if kind in (None, "auto", "none"):
        return kind or "auto"
    raise bad_request("tool_choice: must be auto or none: forcing a call would change the policy's distribution", param="tool_choice")


def _head(reply: Reply) -> dict[str, Any]:
    return {"id": f"msg_{reply.id}", "type": "message", "role": "assistant", "model": reply.request.model}


def _ending(reply: Reply) -> dict[str, Any]:
    sequence = reply.stop_sequence
    return {"stop_reason": "stop_sequence" if sequence else _STOP[reply.turn.answer.finish], "stop_sequence": sequence}


def _blocks(reply: Reply) -> list[dict[str, Any]]:
    answer = reply.turn.answer
    blocks: list[dict[str, Any]] = []
    if answer.reasoning:
        blocks.append({"type": "thinking", "thinking": answer.reasoning, "signature": _SIGNATURE})
    if answer.content or reply.sent or not answer.tool_calls:
        blocks.append({"type": "text", "text": answer.content})
    for call in answer.tool_calls:
        arguments = parsed_arguments(call.arguments)
        if not isinstance(arguments, dict):
            arguments = {"arguments": arguments}  # the API has objects only; the agent gets to see what the policy wrote
        blocks.append({"type": "tool_use", "id": call.id, "name": call.name, "input": arguments})
    return blocks


def _as_deltas(block: dict[str, Any], reply: Reply) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    match block["type"]:
        case "text":
            return {"type": "text", "text": ""}, [{"type": "text_delta", "text": text} for text in reply.text_pieces]
        case "thinking":
            deltas = [{"type": f"{name}_delta", name: block[name]} for name in ("thinking", "signature")]
            return {"type": "thinking", "thinking": "", "signature": ""}, deltas
        case _:
            return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": orjson.dumps(block["input"]).decode()}]


def _input_usage(reply: Reply) -> dict[str, Any]:
    cached = reply.turn.cached_tokens
    return {"input_tokens": reply.context.end - cached, "cache_creation_input_tokens": 0, "cache_read_input_tokens": cached}


def _named(data: dict[str, Any]) -> bytes:
    return event(data, data["type"])
