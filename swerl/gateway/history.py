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
    raw_tools: Any
    template_kwargs: Mapping[str, Any]
    tools: tuple[Mapping[str, Any], ...]
    preamble: bytes
    same_items: int = 0  # as many items at the beginning are those of the conversation it continues
    anchors: list[tuple[int, Node]] = field(default_factory=list)


class Histories:
    def __init__(self) -> None:
        self._recent: deque[Conversation] = deque(maxlen=_REMEMBERED)

    def recall(
        self, items: Sequence[Any], raw_tools: Any, template_kwargs: Mapping[str, Any], convert: ConvertItem, convert_tools: ConvertTools
    ) -> Conversation:
        """The conversation of a request. Raises what the dialect's functions raise for items they refuse."""
        alike = [c for c in self._recent if c.raw_tools == raw_tools and c.template_kwargs == template_kwargs]
        same, known = max(((_same(c.items, items), c) for c in alike), key=lambda pair: pair[0], default=(0, None))
        fresh = [convert(items[i], i) for i in range(same, len(items))]
        if known is None:
            tools = convert_tools(raw_tools)
            preamble = preamble_digest(tools, template_kwargs)
            made = Conversation(list(items), fresh, raw_tools, template_kwargs, tools, preamble)
        else:
            converted = [*known.converted[:same], *fresh]
            made = Conversation(list(items), converted, raw_tools, template_kwargs, known.tools, known.preamble, same, known.anchors)
            if same == len(known.items):
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
