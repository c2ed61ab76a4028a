"""What a session remembers of the last requests' bodies, so that a request costs what it adds and not what it repeats.

Agents send their whole history every turn. `Histories.recall` compares it, item by item and as parsed JSON, with the histories seen lately;
what is the same is not converted, hashed or looked for in the tree again. `Conversation.anchors` are the places in the tree that the
beginning of a history leads to; they stay right because a tree only grows.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from swerl.gateway.chat import Message, preamble_digest

if TYPE_CHECKING:
    from swerl.gateway.tree import Node

_REMEMBERED = 4  # histories: the agent's own and those of a few sub-agents
ConvertItem = Callable[[Any, int], Any]
ConvertTools = Callable[[Any], tuple[Mapping[str, Any], ...]]


@dataclass(slots=True, eq=False)
class Conversation:
    """``items`` as the client sent them, each with what the dialect made of it; ``anchors``: (number of messages, node they lead to)."""

    items: list[Any]
    converted: list[Any]
    tools: tuple[Mapping[str, Any], ...]
    preamble: bytes
    same_items: int = 0  # as many items at the beginning are those of the conversation it continues
    anchors: list[tuple[int, Node]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ToolSet:
    """``raw`` as the client sent it; ``preamble`` is the digest of the tools alone."""

    raw: Any
    tools: tuple[Mapping[str, Any], ...]
    preamble: bytes


class ToolSets:
    """The tools of all sessions: those of one agent are the same in each, large, and kept once."""

    def __init__(self) -> None:
        self._recent: deque[ToolSet] = deque(maxlen=16)

    def of(self, raw: Any, convert: ConvertTools) -> ToolSet:
        for known in self._recent:
            if known.raw == raw:
                return known
        tools = convert(raw)
        made = ToolSet(raw, tools, preamble_digest(tools, {}))
        self._recent.appendleft(made)
        return made


class Histories:
    def __init__(self, tool_sets: ToolSets | None = None) -> None:
        self._recent: deque[Conversation] = deque(maxlen=_REMEMBERED)
        self._tool_sets = tool_sets or ToolSets()

    def recall(
        self, items: Sequence[Any], raw_tools: Any, template_kwargs: Mapping[str, Any], convert: ConvertItem, convert_tools: ConvertTools
    ) -> Conversation:
        """The conversation of a request. Raises what the dialect's functions raise for items they refuse."""
        tool_set = self._tool_sets.of(raw_tools, convert_tools)
        preamble = preamble_digest(tool_set.tools, template_kwargs) if template_kwargs else tool_set.preamble
        alike = [c for c in self._recent if c.preamble == preamble]
        same, known = max(((_same(c.items, items), c) for c in alike), key=lambda pair: pair[0], default=(0, None))
        converted = [*(known.converted[:same] if known else ()), *(convert(items[i], i) for i in range(same, len(items)))]
        made = Conversation(list(items), converted, tool_set.tools, preamble, same, known.anchors if known else [])
        if known is not None and same == len(known.items):
            self._recent.remove(known)  # continued, not left for another
        self._recent.appendleft(made)
        return made


def _same(old: Sequence[Any], new: Sequence[Any]) -> int:
    count = 0
    for a, b in zip(old, new, strict=False):
        if a != b:
            break
        count += 1
    return count


def usable(anchors: Sequence[tuple[int, Node]], same_messages: int) -> list[tuple[int, Node]]:
    """The anchors that the unchanged beginning of a history still leads to."""
    return list(anchors[: bisect_right(anchors, same_messages, key=lambda anchor: anchor[0])])


def flatten(converted: Sequence[tuple[Message, ...]], same_items: int) -> tuple[tuple[Message, ...], int]:
    """All messages, and how many of them come from the first ``same_items`` items."""
    return tuple(m for item in converted for m in item), sum(len(item) for item in converted[:same_items])
