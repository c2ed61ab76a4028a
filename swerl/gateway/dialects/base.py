"""What a dialect does, and the data it is given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from swerl.gateway.chat import ChatRequest
from swerl.gateway.errors import ApiError, bad_request
from swerl.gateway.history import Histories
from swerl.gateway.tokenizer import Tokenizer
from swerl.gateway.tree import Context, Turn


@dataclass(frozen=True, slots=True)
class Reply:
    """A sampled turn on its way to a client. ``id`` is the same each time the turn is delivered. ``sent`` are pieces of text that have left
    while it was sampled; with ``whole`` false the turn is still being sampled and ends where the pieces end."""

    id: str
    created: int
    request: ChatRequest
    context: Context
    turn: Turn
    tokenizer: Tokenizer | None  # None where a turn comes as text (evaluation of a URL)
    sent: tuple[str, ...] = ()
    whole: bool = True

    @property
    def stop_sequence(self) -> str | None:
        """The client's stop sequence that ended the turn; None when something else did, or when the turn came without its tokens."""
        if not self.request.stop or self.turn.answer.finish != "stop" or self.tokenizer is None:
            return None
        text = self.tokenizer.decode(self.turn.tokens.ids(), skip_special=False)
        return min((s for s in self.request.stop if s in text), key=text.find, default=None)

    @property
    def text_pieces(self) -> list[str]:
        """The answer's text, cut where it was cut on its way. Text that was sent stands, even if it turned out to belong to a call."""
        content, before = self.turn.answer.content, "".join(self.sent)
        rest = content[len(before) :] if content.startswith(before) else ""
        return [*self.sent, *([rest] if rest else [])]


class Dialect(Protocol):
    """Stateless. ``stream`` yields whole server-sent events, as many before the end of the text for a turn that is still being sampled as
    for the whole one; ``keepalive`` is one that clients ignore."""

    keepalive: bytes

    def parse(self, body: Mapping[str, Any], headers: Mapping[str, str], size_bytes: int, seen: Histories) -> ChatRequest:
        """Raises ApiError 400 for a request this API would refuse. ``seen`` are the session's recent histories."""
        ...

    def answer(self, reply: Reply) -> dict[str, Any]: ...

    def stream(self, reply: Reply) -> Iterator[bytes]: ...

    def error(self, error: ApiError) -> dict[str, Any]: ...

    def stream_error(self, error: ApiError) -> bytes: ...


def event(data: Any, name: str | None = None) -> bytes:
    payload = data if isinstance(data, bytes) else orjson.dumps(data)
    return b"event: %b\ndata: %b\n\n" % (name.encode(), payload) if name else b"data: %b\n\n" % payload


def is_retry(headers: Mapping[str, str]) -> bool:
    """The OpenAI and Anthropic SDKs count their retries in a header."""
    count = headers.get("x-stainless-retry-count", "0")
    return count.isdigit() and int(count) > 0


def number(body: Mapping[str, Any], name: str, kind: type = float) -> Any:
    """A number of the request, None when absent. Raises ApiError 400 for anything else."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or (kind is int and int(value) != value):
        raise bad_request(f"{name} must be a number", param=name)
    return kind(value)


def stops(value: Any, name: str) -> tuple[str, ...]:
    if value is None:
        return ()
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or not all(isinstance(s, str) for s in listed):
        raise bad_request(f"{name} must be a string or a list of strings", param=name)
    return tuple(s for s in listed if s)


def text_of(value: Any, param: str) -> str:
    """A text of the request, empty when absent. Raises ApiError 400 for anything else."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise bad_request(f"{param} must be a string", param=param)
    return value


def section(body: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """An object inside the request, empty when absent. Raises ApiError 400 for anything else."""
    value = body.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise bad_request(f"{name} must be an object", param=name)
    return value


def written(value: Any, param: str) -> str:
    """``value`` as JSON text. Raises ApiError 400 for one that is nested too deeply."""
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError as error:
        raise bad_request(f"{param}: {error}", param=param) from error


def joined_text(content: Any, param: str, text_types: frozenset[str]) -> str:
    """The text of a content field: a string, or parts of which only text is understood. Raises ApiError 400 for images and the like."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise bad_request("content must be a string or a list of parts", param=param)
    texts = []
    for part in content:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, dict) and isinstance(part.get("type"), str) and part["type"] in text_types:
            texts.append(text_of(part.get("text") or part.get("refusal"), f"{param}.text"))
        else:
            kind = part.get("type") if isinstance(part, dict) else type(part).__name__
            raise bad_request(f"this policy reads text only; a content part is {kind!r}", param=param)
    return "\n".join(texts)
