"""The internal form of a conversation: what every dialect is turned into, and what the tree, the template and the parsers work on.

All classes are immutable. ``digest`` functions are stable across processes and releases: the journal stores them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Literal

import orjson

from swerl.gateway.errors import bad_request

if TYPE_CHECKING:
    from swerl.gateway.history import Conversation

Role = Literal["system", "user", "assistant", "tool"]
Finish = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """``arguments`` is the JSON text as written; nothing here re-serialises it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """``text`` is the joined text of all content parts; ``reasoning`` is what the client sent back of a thinking block."""

    role: Role
    text: str = ""
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    _digest: bytes | None = field(default=None, init=False, repr=False, compare=False)  # see `message_digest`

    def for_template(self) -> dict[str, Any]:
        """The form chat templates expect: content is a string, arguments are objects where they parse as such."""
        message: dict[str, Any] = {"role": self.role, "content": self.text}
        if self.name is not None:
            message["name"] = self.name
        if self.reasoning is not None:
            message["reasoning_content"] = self.reasoning
        if self.tool_calls:
            message["tool_calls"] = [
                {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": parsed_arguments(c.arguments)}}
                for c in self.tool_calls
            ]
        if self.tool_call_id is not None:
            message["tool_call_id"] = self.tool_call_id
        return message


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One request for a turn. ``tools`` are in OpenAI's function form; sampling values are the client's wishes, None where it has none."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    tool_choice: str = "auto"
    model: str = ""
    stream: bool = False
    include_usage: bool = False
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: tuple[str, ...] = ()
    want_logprobs: bool = False
    want_token_ids: bool = False
    retry: bool = False
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    size_bytes: int = 0
    preamble: bytes = b""  # digest of tools and template_kwargs
    same_messages: int = 0  # as many messages at the beginning are those of an earlier request, whose anchors `conversation` has
    conversation: Conversation | None = None

    @property
    def new_characters(self) -> int:
        """About how much text has to be placed: all of a conversation's first request, afterwards what a request adds."""
        return sum(len(m.text) for m in self.messages[self.same_messages :]) if self.same_messages else self.size_bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """A sampled turn as a client sees it. ``finish`` is in OpenAI's words; dialects translate."""

    content: str
    reasoning: str | None
    tool_calls: tuple[ToolCall, ...]
    finish: Finish

    def as_record(self) -> dict[str, Any]:
        calls = [[c.id, c.name, c.arguments] for c in self.tool_calls]
        return {"content": self.content, "reasoning": self.reasoning, "calls": calls, "finish": self.finish}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Answer:
        return cls(record["content"], record["reasoning"], tuple(ToolCall(*call) for call in record["calls"]), record["finish"])


def parsed_arguments(arguments: str) -> Any:
    """The object behind a call's arguments, or the text itself when it is not a JSON object."""
    try:
        value = orjson.loads(arguments) if arguments else {}
    except orjson.JSONDecodeError:
        return arguments
    return value if isinstance(value, dict) else arguments


def message_digest(message: Message) -> bytes:
    """Identity of a message as context: everything that can change what the template renders. Kept with the message."""
    if message._digest is not None:
        return message._digest
    state = blake2b(digest_size=16)
    for part in (message.role, message.text, message.reasoning, message.tool_call_id, message.name):
        _add(state, part)
    for call in message.tool_calls:
        for part in (call.id, call.name, call.arguments):
            _add(state, part)
    object.__setattr__(message, "_digest", state.digest())
    assert message._digest is not None
    return message._digest


def run_key(digests: Sequence[bytes], preamble: bytes = b"") -> bytes:
    """Identity of a run of context messages; ``preamble`` carries the tools for the run that starts a conversation."""
    return blake2b(preamble + b"".join(digests), digest_size=16).digest()


def preamble_digest(tools: Sequence[Mapping[str, Any]], template_kwargs: Mapping[str, Any]) -> bytes:
    """Raises ApiError 400 for tools that are nested too deeply to be written."""
    try:
        return blake2b(orjson.dumps([tools, template_kwargs]), digest_size=16).digest()
    except orjson.JSONEncodeError as error:
        raise bad_request(f"tools: {error}", param="tools") from error


def _add(state: blake2b, part: str | None) -> None:
    if part is None:
        state.update(b"\xff")
        return
    data = part.encode("utf-8", "surrogatepass")
    state.update(len(data).to_bytes(8, "little"))
    state.update(data)
