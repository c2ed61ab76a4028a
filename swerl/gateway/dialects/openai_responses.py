"""OpenAI responses, plain and streamed.

The input is a list of items; an assistant turn of ours comes back as several of them (reasoning, message, function calls), which are put
together again. Nothing is stored for ``previous_response_id``: agents that send it are told so, and send the whole history.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from swerl.gateway.chat import ChatRequest, Message, ToolCall
from swerl.gateway.dialects.base import Reply, event, is_retry, joined_text, number, section
from swerl.gateway.errors import ApiError, bad_request
from swerl.gateway.history import Histories

_TEXT = frozenset({"input_text", "output_text", "text", "refusal", "summary_text", "reasoning_text"})
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


class OpenAIResponses:
    keepalive = b": keep-alive\n\n"

    def parse(self, body: Mapping[str, Any], headers: Mapping[str, str], size_bytes: int, seen: Histories) -> ChatRequest:
        if body.get("previous_response_id"):
            raise bad_request("previous_response_id is not served: send the whole history as input", param="previous_response_id")
        items = body.get("input")
        items = [{"type": "message", "role": "user", "content": items}] if isinstance(items, str) else items
        if not isinstance(items, list) or not items:
            raise bad_request("input must be a text or a list of items", param="input")
        instructions = body.get("instructions")
        if isinstance(instructions, str) and instructions:
            items = [{"type": "message", "role": "system", "content": instructions}, *items]
        if (form := section(section(body, "text"), "format").get("type", "text")) != "text":
            raise bad_request(f"text.format {form!r} is not served: it would change the policy's distribution", param="text.format")
        max_tokens = number(body, "max_output_tokens", int)
        if max_tokens is not None and max_tokens < 1:
            raise bad_request("max_output_tokens must be at least 1", param="max_output_tokens")
        conversation = seen.recall(items, body.get("tools"), {}, _item, _tools)
        flat, same = _assembled(conversation.converted, conversation.same_items)
        return ChatRequest(
            messages=flat,
            tools=conversation.tools,
            tool_choice=_tool_choice(body.get("tool_choice")),
            model=str(body.get("model") or ""),
            stream=bool(body.get("stream")),
            max_tokens=max_tokens,
            temperature=number(body, "temperature"),
            top_p=number(body, "top_p"),
            retry=is_retry(headers),
            size_bytes=size_bytes,
            preamble=conversation.preamble,
            same_messages=same,
            conversation=conversation,
        )

    def answer(self, reply: Reply) -> dict[str, Any]:
        return _response(reply, _status(reply), _items(reply))

    def stream(self, reply: Reply) -> Iterator[bytes]:
        numbers = itertools.count()

        def sent(kind: str, **fields: Any) -> bytes:
            return event({"type": kind, "sequence_number": next(numbers), **fields}, kind)

        yield sent("response.created", response=_response(reply, "in_progress", []))
        yield sent("response.in_progress", response=_response(reply, "in_progress", []))
        items = _items(reply)
        for i, item in enumerate(items):
            yield from _item_events(sent, i, item, reply)
            if not reply.whole:
                return
        status = _status(reply)
        yield sent(f"response.{status}", response=_response(reply, status, items))

    def error(self, error: ApiError) -> dict[str, Any]:
        return {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}

    def stream_error(self, error: ApiError) -> bytes:
        failed = {"object": "response", "status": "failed", "output": [], "error": {"code": error.code, "message": error.message}}
        return event({"type": "response.failed", "sequence_number": 0, "response": failed}, "response.failed")


@dataclass(frozen=True, slots=True)
class _Part:
    """A piece of an assistant turn."""

    kind: Literal["text", "reasoning", "call"]
    text: str = ""
    call: ToolCall | None = None


def _item(item: Any, at: int) -> Message | _Part:
    param = f"input[{at}]"
    if not isinstance(item, dict):
        raise bad_request(f"{param} must be an object", param=param)
    kind = item.get("type") or "message"
    if kind == "message" and isinstance(item.get("role"), str) and item["role"] in _ROLES:
        text = joined_text(item.get("content"), f"{param}.content", _TEXT)
        return _Part("text", text) if item["role"] == "assistant" else Message(_ROLES[item["role"]], text)  # type: ignore[arg-type]
    if kind == "reasoning":
        return _Part("reasoning", joined_text(item.get("content") or item.get("summary"), f"{param}.content", _TEXT))
    if kind in ("function_call", "custom_tool_call"):
        arguments = item.get("arguments") if kind == "function_call" else item.get("input")
        return _Part("call", call=ToolCall(str(item.get("call_id") or ""), str(item.get("name") or ""), str(arguments or "")))
    if kind in ("function_call_output", "custom_tool_call_output"):
        return Message("tool", joined_text(item.get("output"), f"{param}.output", _TEXT), tool_call_id=str(item.get("call_id") or ""))
    raise bad_request(f"{param}: items of type {kind!r} with role {item.get('role')!r} are not served", param=param)


def _assembled(converted: Sequence[Message | _Part], same_items: int) -> tuple[tuple[Message, ...], int]:
    """Parts of one assistant turn become one message: reasoning, then text, then calls. The second value is how many messages the first
    ``same_items`` items make up, whatever follows them."""
    messages: list[Message] = []
    same = 0
    turn: list[_Part] = []

    def close() -> None:
        if any(p.kind != "reasoning" for p in turn):
            text, reasoning = ("".join(p.text for p in turn if p.kind == kind) for kind in ("text", "reasoning"))
            messages.append(Message("assistant", text, reasoning or None, tuple(p.call for p in turn if p.call is not None)))
        turn.clear()

    order = ("reasoning", "text", "call")
    for at, item in enumerate(converted):
        if isinstance(item, Message) or (turn and order.index(item.kind) < order.index(turn[-1].kind)):
            close()
        if isinstance(item, Message):
            messages.append(item)
        else:
            turn.append(item)
        if at < same_items:
            same = len(messages)
    close()
    return tuple(messages), same


def _tools(value: Any) -> tuple[Mapping[str, Any], ...]:
    """Function tools, and those inside a namespace under their own names; tools that OpenAI's servers run are left out."""
    if value is None:
        return ()
    if not isinstance(value, list):
        raise bad_request("tools must be a list", param="tools")
    tools: list[Mapping[str, Any]] = []
    for i, tool in enumerate(value):
        if not isinstance(tool, dict):
            raise bad_request(f"tools[{i}] must be an object", param=f"tools[{i}]")
        if tool.get("type") == "function":
            function = {"name": tool.get("name"), "description": tool.get("description") or "", "parameters": tool.get("parameters") or {}}
            if not isinstance(function["name"], str):
                raise bad_request(f"tools[{i}].name is missing", param=f"tools[{i}]")
            tools.append({"type": "function", "function": function})
        elif tool.get("type") == "namespace":
            inner = tool.get("tools")
            if isinstance(inner, list) and any(isinstance(t, dict) and t.get("type") == "namespace" for t in inner):
                raise bad_request(f"tools[{i}]: a namespace inside a namespace is not served", param=f"tools[{i}]")
            tools.extend(_tools(inner))
    return tuple(tools)


def _tool_choice(value: Any) -> str:
    if value in (None, "auto", "none"):
        return value or "auto"
    raise bad_request("tool_choice must be auto or none: forcing a call would change the policy's distribution", param="tool_choice")


def _status(reply: Reply) -> str:
    return "incomplete" if reply.turn.answer.finish == "length" else "completed"


def _items(reply: Reply) -> list[dict[str, Any]]:
    answer = reply.turn.answer
    items: list[dict[str, Any]] = []
    if answer.reasoning:
        content = [{"type": "reasoning_text", "text": answer.reasoning}]
        items.append({"type": "reasoning", "id": f"rs_{reply.id}", "summary": [], "content": content, "status": "completed"})
    if answer.content or reply.sent or not answer.tool_calls:
        content = [{"type": "output_text", "text": answer.content, "annotations": [], "logprobs": []}]
        items.append({"type": "message", "id": f"msg_{reply.id}", "status": "completed", "role": "assistant", "content": content})
    for i, call in enumerate(answer.tool_calls):
        item = {"type": "function_call", "id": f"fc_{reply.id}-{i}", "call_id": call.id, "name": call.name, "arguments": call.arguments}
        items.append({**item, "status": "completed"})
    return items


def _item_events(sent: Any, i: int, item: dict[str, Any], reply: Reply) -> Iterator[bytes]:
    where = {"item_id": item["id"], "output_index": i}
    if item["type"] == "function_call":
        yield sent("response.output_item.added", output_index=i, item={**item, "status": "in_progress", "arguments": ""})
        yield sent("response.function_call_arguments.delta", **where, delta=item["arguments"])
        yield sent("response.function_call_arguments.done", **where, name=item["name"], arguments=item["arguments"])
    else:
        part = item["content"][0]
        kind = "response.reasoning_text" if item["type"] == "reasoning" else "response.output_text"
        yield sent("response.output_item.added", output_index=i, item={**item, "status": "in_progress", "content": []})
        yield sent("response.content_part.added", **where, content_index=0, part={**part, "text": ""})
        for text in [part["text"]] if item["type"] == "reasoning" else reply.text_pieces or [""]:
            yield sent(f"{kind}.delta", **where, content_index=0, delta=text, logprobs=[])
        if not reply.whole:
            return
        yield sent(f"{kind}.done", **where, content_index=0, text=part["text"], logprobs=[])
        yield sent("response.content_part.done", **where, content_index=0, part=part)
    yield sent("response.output_item.done", output_index=i, item=item)


def _response(reply: Reply, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
    prompt, sampled = reply.context.end, reply.turn.tokens.count
    usage = {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": reply.turn.cached_tokens},
        "output_tokens": sampled,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": prompt + sampled,
    }
    return {
        "id": f"resp_{reply.id}",
        "object": "response",
        "created_at": reply.created,
        "status": status,
        "model": reply.request.model,
        "output": output,
        "usage": None if status == "in_progress" else usage,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "instructions": None,
        "metadata": {},
        "parallel_tool_calls": True,
        "temperature": reply.request.temperature,
        "top_p": reply.request.top_p,
        "tool_choice": reply.request.tool_choice,
        "tools": [],
    }
