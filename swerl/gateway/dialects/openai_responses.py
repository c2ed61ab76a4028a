"""OpenAI responses, plain and streamed.

The input is a list of items; an assistant turn of ours comes back as several of them (reasoning, message, function calls), which are put
together again. Nothing is stored for ``previous_response_id``: agents that send it are told so, and send the whole history.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from swerl.gateway.chat import ChatRequest, Message, ToolCall
from swerl.gateway.dialects.base import Reply, event, is_retry, joined_text, number
from swerl.gateway.errors import ApiError, bad_request

_TEXT = frozenset({"input_text", "output_text", "text", "refusal", "summary_text", "reasoning_text"})
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


class OpenAIResponses:
    keepalive = b": keep-alive\n\n"

    def parse(self, body: Mapping[str, Any], headers: Mapping[str, str], size_bytes: int) -> ChatRequest:
        if body.get("previous_response_id"):
            raise bad_request("previous_response_id is not served: send the whole history as input", param="previous_response_id")
        items = body.get("input")
        items = [{"type": "message", "role": "user", "content": items}] if isinstance(items, str) else items
        if not isinstance(items, list) or not items:
            raise bad_request("input must be a text or a list of items", param="input")
        instructions = body.get("instructions")
        start = [Message("system", instructions)] if isinstance(instructions, str) and instructions else []
        max_tokens = number(body, "max_output_tokens", int)
        if max_tokens is not None and max_tokens < 1:
            raise bad_request("max_output_tokens must be at least 1", param="max_output_tokens")
        return ChatRequest(
            messages=(*start, *_messages(items)),
            tools=_tools(body.get("tools")),
            tool_choice=_tool_choice(body.get("tool_choice")),
            model=str(body.get("model") or ""),
            stream=bool(body.get("stream")),
            max_tokens=max_tokens,
            temperature=number(body, "temperature"),
            top_p=number(body, "top_p"),
            retry=is_retry(headers),
            size_bytes=size_bytes,
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
            yield from _item_events(sent, i, item)
        status = _status(reply)
        yield sent(f"response.{status}", response=_response(reply, status, items))

    def error(self, error: ApiError) -> dict[str, Any]:
        return {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}

    def stream_error(self, error: ApiError) -> bytes:
        failed = {"object": "response", "status": "failed", "output": [], "error": {"code": error.code, "message": error.message}}
        return event({"type": "response.failed", "sequence_number": 0, "response": failed}, "response.failed")


def _messages(items: list[Any]) -> Iterator[Message]:
    """Items of one assistant turn that follow each other become one message."""
    texts: list[str] = []
    reasoning: list[str] = []
    calls: list[ToolCall] = []

    def turn() -> Iterator[Message]:
        if texts or calls:
            yield Message("assistant", "".join(texts), "".join(reasoning) or None, tuple(calls))
        texts.clear(), reasoning.clear(), calls.clear()

    for i, item in enumerate(items):
        param = f"input[{i}]"
        if not isinstance(item, dict):
            raise bad_request(f"{param} must be an object", param=param)
        kind = item.get("type") or "message"
        if kind == "message" and item.get("role") in _ROLES:
            text = joined_text(item.get("content"), f"{param}.content", _TEXT)
            if item["role"] == "assistant":
                if calls:  # a turn of ours never has text after its calls
                    yield from turn()
                texts.append(text)
            else:
                yield from turn()
                yield Message(_ROLES[item["role"]], text)  # type: ignore[arg-type]
        elif kind == "reasoning":
            if texts or calls:
                yield from turn()
            reasoning.append(joined_text(item.get("content") or item.get("summary"), f"{param}.content", _TEXT))
        elif kind == "function_call":
            calls.append(ToolCall(str(item.get("call_id") or ""), str(item.get("name") or ""), str(item.get("arguments") or "")))
        elif kind == "custom_tool_call":
            calls.append(ToolCall(str(item.get("call_id") or ""), str(item.get("name") or ""), str(item.get("input") or "")))
        elif kind in ("function_call_output", "custom_tool_call_output"):
            yield from turn()
            output = joined_text(item.get("output"), f"{param}.output", _TEXT)
            yield Message("tool", output, tool_call_id=str(item.get("call_id") or ""))
        else:
            raise bad_request(f"{param}: items of type {kind!r} with role {item.get('role')!r} are not served", param=param)
    yield from turn()


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
            tools.extend(_tools(tool.get("tools")))
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
    if answer.content or not answer.tool_calls:
        content = [{"type": "output_text", "text": answer.content, "annotations": [], "logprobs": []}]
        items.append({"type": "message", "id": f"msg_{reply.id}", "status": "completed", "role": "assistant", "content": content})
    for i, call in enumerate(answer.tool_calls):
        item = {"type": "function_call", "id": f"fc_{reply.id}-{i}", "call_id": call.id, "name": call.name, "arguments": call.arguments}
        items.append({**item, "status": "completed"})
    return items


def _item_events(sent: Any, i: int, item: dict[str, Any]) -> Iterator[bytes]:
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
        yield sent(f"{kind}.delta", **where, content_index=0, delta=part["text"], logprobs=[])
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
