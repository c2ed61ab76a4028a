"""The session tree: every token of a session once, with its origin.

    root ── Context ── Turn ── Context ── Turn          a path from the root is what the engine was given, then what it sampled
                 └──── Turn ── Context ── ...           a second sample of the same prompt is a sibling

A `Context` holds the tokens that lead from its parent (the root or a `Turn`, or another Context, see below) up to and including the
generation prompt; a `Turn` holds the tokens sampled there, each with log-probability and version. A Context with ``copy_of`` repeats the
tokens of a Turn that stands elsewhere in the tree: the engine sees its own words, but they are context there and not trainable.

Invariants: nodes are only added; ids are unique and rise along every path; a Turn's three lists have one length, at least one.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from swerl.gateway.chat import Answer


@dataclass(frozen=True, slots=True)
class Tokens:
    """A fixed run of tokens, kept as the JSON that engine requests and the journal need: a third of a list's memory, dumped once."""

    json: bytes
    count: int

    @classmethod
    def of(cls, ids: Sequence[int]) -> Tokens:
        return cls(orjson.dumps(list(ids))[1:-1], len(ids))

    def ids(self) -> list[int]:
        return orjson.loads(b"[%b]" % self.json)

    def fragment(self) -> orjson.Fragment:
        """The list, for orjson to put into a larger value as it is."""
        return orjson.Fragment(b"[%b]" % self.json)


@dataclass(slots=True, eq=False)
class Context:
    """``key`` identifies the messages it renders (with the tools, for a run that starts a conversation). ``end``: tokens from the root
    up to here; ``depth``: sampled turns up to here; ``saved``: it is in the journal; ``covers``: how many messages a start has taken over
    as context although turns of ours were among them (0 for the usual start). A start counts the ``sampled`` turns of its conversation, and
    knows whether one is ``real`` (no probe) and one ``deep`` (not the first)."""

    id: int
    parent: Turn | Context | None
    key: bytes
    tokens: Tokens
    end: int
    depth: int
    copy_of: Turn | None = None
    signature: bytes = b""  # of tools and system text; set where a conversation starts
    tool_count: int = 0
    covers: int = 0
    saved: bool = False
    sampled: int = 0
    real: bool = False
    deep: bool = False
    turns: list[Turn] = field(default_factory=list)
    contexts: dict[bytes, Context] = field(default_factory=dict)
    start: Context = field(init=False)

    def __post_init__(self) -> None:
        self.start = self if self.parent is None else self.parent.start


@dataclass(slots=True, eq=False)
class Turn:
    """``delivered``: a client has read the whole answer, or showed that it has by continuing it. ``probe``: too few tokens were asked for
    to be a turn of an agent. ``differences``: what has been reported of a client's copy."""

    id: int
    parent: Context
    tokens: Tokens
    end: int
    depth: int
    logprobs: array[float]
    versions: array[int]
    last_token: int
    answer: Answer
    probe: bool = False
    delivered: bool = False
    cached_tokens: int = 0
    contexts: dict[bytes, Context] = field(default_factory=dict)
    differences: set[str] = field(default_factory=set)

    @property
    def start(self) -> Context:
        return self.parent.start


Node = Context | Turn


class SessionTree:
    def __init__(self) -> None:
        self.starts: dict[bytes, Context] = {}
        self.turns: list[Turn] = []
        self.covered: set[int] = set()  # `Context.covers` of all starts
        self._by_call: dict[str, list[Turn]] = {}
        self._next_id = 0

    def context_under(self, parent: Node | None, key: bytes) -> Context | None:
        return (self.starts if parent is None else parent.contexts).get(key)

    def add_context(
        self,
        parent: Node | None,
        key: bytes,
        tokens: Tokens,
        *,
        copy_of: Turn | None = None,
        signature: bytes = b"",
        tool_count: int = 0,
        covers: int = 0,
        id: int | None = None,
    ) -> Context:
        """``id`` is given only when a journal is read back."""
        siblings = self.starts if parent is None else parent.contexts
        if key in siblings:
            raise AssertionError("a context exists once under its parent")
        end, depth = (parent.end, parent.depth) if parent is not None else (0, 0)
        node = Context(self._take_id(id), parent, key, tokens, end + tokens.count, depth, copy_of, signature, tool_count, covers)
        siblings[key] = node
        if covers:
            self.covered.add(covers)
        return node

    def add_turn(
        self,
        parent: Context,
        token_ids: Sequence[int],
        logprobs: Sequence[float],
        versions: Sequence[int],
        answer: Answer,
        *,
        probe: bool = False,
        cached_tokens: int = 0,
        id: int | None = None,
    ) -> Turn:
        if not len(token_ids) == len(logprobs) == len(versions) or not token_ids:
            raise AssertionError("a turn has at least one token, and each has its log-probability and version")
        node = Turn(
            id=self._take_id(id),
            parent=parent,
            tokens=Tokens.of(token_ids),
            end=parent.end + len(token_ids),
            depth=parent.depth + 1,
            logprobs=array("d", logprobs),
            versions=array("q", versions),
            last_token=token_ids[-1],
            answer=answer,
            probe=probe,
            cached_tokens=cached_tokens,
        )
        parent.turns.append(node)
        self.turns.append(node)
        start = node.start
        start.sampled += 1
        start.real |= not probe
        start.deep |= node.depth > 1
        for call in answer.tool_calls:
            self._by_call.setdefault(call.id, []).append(node)
        return node

    def next_id(self) -> int:
        """Reserve an id for a node whose record is written before the node is added."""
        return self._take_id(None)

    def turns_of_call(self, call_id: str) -> Sequence[Turn]:
        return self._by_call.get(call_id, ())

    def _take_id(self, given: int | None) -> int:
        taken = self._next_id if given is None else given
        self._next_id = max(self._next_id, taken + 1)
        return taken


def lineage(node: Node | None) -> list[Node]:
    """From the start of the conversation to ``node``."""
    nodes: list[Node] = []
    while node is not None:
        nodes.append(node)
        node = node.parent
    nodes.reverse()
    return nodes


def path_json(node: Node) -> bytes:
    """The tokens from the root to ``node`` as the inside of a JSON list: one copy of bytes, whatever the length of the history."""
    return b",".join(n.tokens.json for n in lineage(node) if n.tokens.count)


@dataclass(frozen=True, slots=True)
class Path:
    """One leaf of the tree, as training rows. Lists after ``prompt_ids`` have one length; see `paths`."""

    main: bool
    prompt_ids: list[int]
    response_ids: list[int]
    response_mask: list[int]
    response_logprobs: list[float]
    versions: list[int]
    turns: int

    def as_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


def side_starts(tree: SessionTree) -> set[Context]:
    """Starts of conversations that are not the task: probes, and single turns without tools in a session that has tools (titles)."""
    session_has_tools = any(start.tool_count for start in tree.starts.values())
    return {s for s in tree.starts.values() if not s.real or (session_has_tools and not s.tool_count and not s.deep)}


def turns_of_task(tree: SessionTree) -> int:
    """How many turns are no side call's. Its cost is the number of conversations, whatever their length."""
    sides = side_starts(tree)
    return sum(start.sampled for start in tree.starts.values() if start not in sides)


def main_turn(tree: SessionTree) -> Turn | None:
    """The last turn of the main conversation: the first one that is no side call. After a compaction it goes on from a new start that has
    the same tools and system text; a start with others is a sub-agent."""
    sides = side_starts(tree)
    main: Turn | None = None
    signature: bytes | None = None
    for turn in tree.turns:
        start = turn.start
        if start in sides or turn.probe:
            continue
        signature = start.signature if signature is None else signature
        if start.signature == signature:
            main = turn
    return main


def paths(tree: SessionTree, *, which: str = "all") -> list[Path]:
    """Leaves as training rows, the main one last. Prompt = tokens before the first sampled one; response = the rest.

    In the response, context has mask 0, log-probability 0.0 and version -1. A sampled token has mask 1 in exactly one path: the main path
    where it lies on it, else the first that has it. Side calls give no path. ``which="main"`` gives at most one path.
    """
    if which not in ("all", "main"):
        raise AssertionError(f"which is all or main, not {which!r}")
    main = main_turn(tree)
    if main is None:
        return []
    claimed = {n.id for n in lineage(main) if isinstance(n, Turn)}
    found = [_path(main, claimed, main=True)]
    if which == "main":
        return found
    sides, taken, others = side_starts(tree), set(claimed), []
    for leaf in _leaves(tree):
        own = {n.id for n in lineage(leaf) if isinstance(n, Turn)} - taken
        if own and leaf.start not in sides:
            taken |= own
            others.append(_path(leaf, own, main=False))
    return [*others, *found]


def _leaves(tree: SessionTree) -> list[Turn]:
    inner = {n.id for turn in tree.turns for n in lineage(turn.parent) if isinstance(n, Turn)}
    return [t for t in tree.turns if t.id not in inner]


def _path(leaf: Turn, trainable: set[int], *, main: bool) -> Path:
    nodes = lineage(leaf)
    first = next(i for i, n in enumerate(nodes) if isinstance(n, Turn))
    prompt = [t for n in nodes[:first] for t in n.tokens.ids()]
    path = Path(main, prompt, [], [], [], [], leaf.depth)
    for node in nodes[first:]:
        path.response_ids.extend(node.tokens.ids())
        sampled = isinstance(node, Turn)
        path.response_mask.extend([int(sampled and node.id in trainable)] * node.tokens.count)
        path.response_logprobs.extend(node.logprobs if sampled else [0.0] * node.tokens.count)
        path.versions.extend(node.versions if sampled else [-1] * node.tokens.count)
    return path
