"""OpenAI chat completions, plain and streamed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from swerl.gateway.chat import ChatRequest, Message, ToolCall
from swerl.gateway.dialects.base import Reply, event, is_retry, joined_text, number, section, stops, text_of
from swerl.gateway.errors import ApiError, bad_request
from swerl.gateway.history import Histories, flatten
from swerl.gateway.tree import lineage

_TEXT = frozenset({"text", "refusal", "input_text", "output_text"})
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool", "function": "tool"}


class OpenAIChat:
    keepalive = b": keep-alive\n\n"

    def parse(self, body: Mapping[str, Any], headers: Mapping[str, str], size_bytes: int, seen: Histories) -> ChatRequest:
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            raise bad_request("messages must be a list with at least one message", param="messages")
        if number(body, "n", int) not in (None, 1):
            raise bad_request("only n=1 is served; send the request again for another sample", param="n")
        max_tokens = number(body, "max_completion_tokens", int) or number(body, "max_tokens", int)
        if max_tokens is not None and max_tokens < 1:
            raise bad_request("max_tokens must be at least 1", param="max_tokens")
        if (form := section(body, "response_format").get("type", "text")) != "text":
            raise bad_request(f"response_format {form!r} is not served: it would change the policy's distribution", param="response_format")
        options = section(body, "stream_options")
        template_kwargs = section(body, "chat_template_kwargs")
        conversation = seen.recall(messages, body.get("tools"), template_kwargs, _message, _tools)
        flat, same = flatten(conversation.converted, conversation.same_items)
        return ChatRequest(
            messages=flat,
            tools=conversation.tools,
            tool_choice=_tool_choice(body.get("tool_choice")),
            model=str(body.get("model") or ""),
            stream=bool(body.get("stream")),
            include_usage=bool(options.get("include_usage")),
            max_tokens=max_tokens,
            temperature=number(body, "temperature"),
            top_p=number(body, "top_p"),
            top_k=number(body, "top_k", int),
            stop=stops(body.get("stop"), "stop"),
            want_logprobs=bool(body.get("logprobs")),
            want_token_ids=bool(body.get("return_token_ids")),
            retry=is_retry(headers),
            template_kwargs=template_kwargs,
            size_bytes=size_bytes,
            preamble=conversation.preamble,
            same_messages=same,
            conversation=conversation,
        )

    def answer(self, reply: Reply) -> dict[str, Any]:
        sampled = reply.turn.answer
        # a message that only calls tools has null content in this API
        content = sampled.content or (None if sampled.tool_calls else "")
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if sampled.reasoning is not None:
            message["reasoning_content"] = sampled.reasoning
        if sampled.tool_calls:
            message["tool_calls"] = [_call(c) for c in sampled.tool_calls]
        choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": sampled.finish, "logprobs": _logprobs(reply)}
        body = {**_head(reply, "chat.completion"), "choices": [choice], "usage": _usage(reply)}
        if reply.request.want_token_ids:
            choice["token_ids"] = reply.turn.tokens.ids()
            body["prompt_token_ids"] = _prompt_ids(reply)
        return body

    def stream(self, reply: Reply) -> Iterator[bytes]:
        head, answer = _head(reply, "chat.completion.chunk"), reply.turn.answer

        def chunk(delta: dict[str, Any], **choice: Any) -> bytes:
            return event({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None, **choice}]})

        first: dict[str, Any] = {"role": "assistant", "content": ""}
        if reply.request.want_token_ids:
            body = {**head, "prompt_token_ids": _prompt_ids(reply), "choices": [{"index": 0, "delta": first, "finish_reason": None}]}
            yield event(body)
        else:
            yield chunk(first)
        if answer.reasoning:
            yield chunk({"reasoning_content": answer.reasoning})
        extra = {"logprobs": logprobs} if (logprobs := _logprobs(reply)) is not None else {}
        if reply.request.want_token_ids:
            extra["token_ids"] = reply.turn.tokens.ids()
        for text in reply.text_pieces or ([""] if extra else []):
            yield chunk({"content": text}, **extra)
        if not reply.whole:
            return
        for i, call in enumerate(answer.tool_calls):
            opened = {"index": i, "id": call.id, "type": "function", "function": {"name": call.name, "arguments": ""}}
            yield chunk({"tool_calls": [opened]})
            yield chunk({"tool_calls": [{"index": i, "function": {"arguments": call.arguments}}]})
        yield event({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": answer.finish}]})
        if reply.request.include_usage:
            yield event({**head, "choices": [], "usage": _usage(reply)})
        yield event(b"[DONE]")

    def error(self, error: ApiError) -> dict[str, Any]:
        return {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}

    def stream_error(self, error: ApiError) -> bytes:
        return event(self.error(error))


def _message(value: Any, at: int) -> tuple[Message]:
    param = f"messages[{at}]"
    if not isinstance(value, dict) or not isinstance(value.get("role"), str) or value["role"] not in _ROLES:
        raise bad_request(f"{param} must have one of the roles {', '.join(_ROLES)}", param=param)
    calls = value.get("tool_calls") or []
    if not isinstance(calls, list):
        raise bad_request(f"{param}.tool_calls must be a list", param=param)
    message = Message(
        role=_ROLES[value["role"]],  # type: ignore[arg-type]
        text=joined_text(value.get("content"), f"{param}.content", _TEXT),
        reasoning=text_of(value.get("reasoning_content") or value.get("reasoning"), f"{param}.reasoning_content") or None,
        tool_calls=tuple(_tool_call(c, f"{param}.tool_calls[{i}]") for i, c in enumerate(calls)),
        tool_call_id=text_of(value.get("tool_call_id"), f"{param}.tool_call_id") or None,
        name=text_of(value.get("name"), f"{param}.name") or None,
    )
    return (message,)


def _tool_call(value: Any, param: str) -> ToolCall:
    function = value.get("function") if isinstance(value, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise bad_request(f"{param} must be a function call", param=param)
    arguments = function.get("arguments", "")
    if not isinstance(arguments, str):
        raise bad_request(f"{param}.function.arguments must be a JSON string", param=param)
    return ToolCall(str(value.get("id") or ""), function["name"], arguments)


def _tools(value: Any) -> tuple[Mapping[str, Any], ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise bad_request("tools must be a list", param="tools")
    for i, tool in enumerate(value):
        if not isinstance(tool, dict) or tool.get("type") != "function" or not isinstance(tool.get("function"), dict):
            raise bad_request(f"tools[{i}] must be a function tool", param=f"tools[{i}]")
    return tuple(value)


def _tool_choice(value: Any) -> str:
    if value in (None, "auto", "none"):
        return value or "auto"
    raise bad_request("tool_choice must be auto or none: forcing a call would change the policy's distribution", param="tool_choice")


def _head(reply: Reply, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{reply.id}", "object": kind, "created": reply.created, "model": reply.request.model}


def _call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _usage(reply: Reply) -> dict[str, Any]:
    prompt, sampled = reply.context.end, reply.turn.tokens.count
    return {
        "prompt_tokens": prompt,
        "completion_tokens": sampled,
        "total_tokens": prompt + sampled,
        "prompt_tokens_details": {"cached_tokens": reply.turn.cached_tokens},
    }


def _prompt_ids(reply: Reply) -> list[int]:
    return [t for node in lineage(reply.context) for t in node.tokens.ids()]


def _logprobs(reply: Reply) -> dict[str, Any] | None:
    if not reply.request.want_logprobs:
        return None
    assert reply.tokenizer is not None, "a source without tokens refuses requests for them"
    content = []
    for token_id, logprob in zip(reply.turn.tokens.ids(), reply.turn.logprobs, strict=True):
        text = reply.tokenizer.decode([token_id], skip_special=False)
        content.append({"token": text, "logprob": logprob, "bytes": list(text.encode()), "top_logprobs": []})
    return {"content": content}
