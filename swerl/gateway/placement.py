"""Where a request stands in the session tree: recognise our own turns in the client's history, render only what is new.

A history is cut into runs of context messages and our own assistant turns. An assistant message is one of ours when it carries the id of
a call we made; without ids, when it stands where we sampled and has the same text (spacing and dropped reasoning aside). Then the sampled
tokens stand, whatever the client made of them, and the differences are reported. With ``on_rewrite="branch"`` a copy whose arguments or
text really differ is taken as the client's own words instead: it becomes context, on a branch.

A turn of ours that stands somewhere else than where it was sampled (turns before it were dropped, or context was inserted) is copied in as
context. Every other assistant message is context like any message.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Literal

from swerl.gateway.chat import ChatRequest, Message, message_digest, parsed_arguments, preamble_digest, run_key
from swerl.gateway.history import usable
from swerl.gateway.template import ChatTemplate
from swerl.gateway.tree import Context, Node, SessionTree, Tokens, Turn

OnRewrite = Literal["keep", "branch"]
Prompt = Callable[[bytes, Sequence[Message], ChatRequest], Tokens]
_THINK = re.compile(r"\A\s*(?:<think>)?.*?</think>", re.DOTALL)
_MATERIAL = frozenset({"arguments", "text", "calls"})


@dataclass(frozen=True, slots=True)
class Rewrite:
    """A client's copy of one of our turns is not what we answered. ``kinds``: arguments, serialisation, text, spacing, reasoning, calls."""

    turn: Turn
    kinds: frozenset[str]
    kept: bool


@dataclass(slots=True)
class Placement:
    """``context`` is where to sample; ``known`` are the turns of ours that the request carries."""

    context: Context = None  # type: ignore[assignment]  # set on every way out of `Placer.place`
    known: list[Turn] = field(default_factory=list)
    rewrites: list[Rewrite] = field(default_factory=list)
    rerendered: bool = False


class Placer:
    """``render_start`` renders the run that starts a conversation (a cache shared between sessions sits there)."""

    def __init__(self, template: ChatTemplate, render_start: Prompt, on_rewrite: OnRewrite = "keep"):
        self.template, self.render_start, self.on_rewrite = template, render_start, on_rewrite

    def place(self, tree: SessionTree, request: ChatRequest) -> Placement:
        """Add what the request adds to ``tree``. Raises ApiError 400 when the template refuses the conversation; no turn is lost then."""
        preamble = request.preamble or preamble_digest(request.tools, request.template_kwargs)
        digests = _Digests(request.messages)
        placement = Placement()
        position: Node | None = None
        begin = 0  # of the current run
        anchors: list[tuple[int, Node]] = []
        covered = _covered(tree, digests, preamble)
        if request.conversation is not None and not covered:
            anchors = usable(request.conversation.anchors, request.same_messages)
            if anchors:
                begin, position = anchors[-1]
        for at in range(begin, len(request.messages)):
            message = request.messages[at]
            if message.role != "assistant" or at < covered or (position is None and at == begin):
                continue
            key = run_key(digests[begin:at], b"" if position else preamble)
            here = tree.context_under(position, key)
            turn = self._recognised(tree, here, message, placement)
            if turn is None:
                continue
            placement.known.append(turn)
            if here is None:
                here = self._add(tree, position, key, request.messages[begin:at], preamble, request)
                if here is None:
                    return self._rerendered(tree, request, digests, preamble, placement)
            position = turn if turn.parent is here else self._copy(tree, here, turn)
            begin = at + 1
            anchors.append((begin, position))
        key = run_key(digests[begin:], b"" if position else preamble)
        context = tree.context_under(position, key) or self._add(tree, position, key, request.messages[begin:], preamble, request)
        if context is None:
            return self._rerendered(tree, request, digests, preamble, placement)
        placement.context = context
        if request.conversation is not None and not covered:
            request.conversation.anchors = anchors
        return placement

    def _recognised(self, tree: SessionTree, here: Context | None, message: Message, placement: Placement) -> Turn | None:
        turn = _find(tree, here, message)
        if turn is None:
            return None
        kinds = differences(turn, message)
        kept = self.on_rewrite == "keep" or not kinds & _MATERIAL
        if kinds - turn.differences:
            turn.differences |= kinds
            placement.rewrites.append(Rewrite(turn, frozenset(kinds), kept))
        return turn if kept else None

    def _add(
        self, tree: SessionTree, position: Node | None, key: bytes, run: Sequence[Message], preamble: bytes, request: ChatRequest
    ) -> Context | None:
        """The context that renders ``run`` after ``position``; None when the template cannot continue there."""
        if position is None:
            return self._start(tree, key, run, preamble, request)
        ending = position if isinstance(position, Turn) else position.copy_of
        assert ending is not None
        ids = self.template.continuation(ending.last_token, ending.answer.tool_calls, run, **request.template_kwargs)
        return None if ids is None else tree.add_context(position, key, Tokens.of(ids))

    def _start(
        self, tree: SessionTree, key: bytes, run: Sequence[Message], preamble: bytes, request: ChatRequest, covers: int = 0
    ) -> Context:
        system = "\n".join(m.text for m in run if m.role == "system")
        signature = blake2b(preamble + system.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        tokens = self.render_start(key, run, request)
        return tree.add_context(None, key, tokens, signature=signature, tool_count=len(request.tools), covers=covers)

    def _copy(self, tree: SessionTree, here: Context, turn: Turn) -> Context:
        key = b"copy" + turn.id.to_bytes(8, "little")
        return tree.context_under(here, key) or tree.add_context(here, key, turn.tokens, copy_of=turn)

    def _rerendered(
        self, tree: SessionTree, request: ChatRequest, digests: Sequence[bytes], preamble: bytes, placement: Placement
    ) -> Placement:
        """The template cannot continue after our turn with these messages: the whole conversation becomes context of a new start."""
        key = run_key(digests[:], preamble)
        placement.rerendered = True
        known = tree.context_under(None, key)
        placement.context = known or self._start(tree, key, request.messages, preamble, request, covers=len(request.messages))
        return placement


class _Digests(Sequence[bytes]):
    """Digests of messages, made when they are asked for: the beginning of a long history is never."""

    def __init__(self, messages: Sequence[Message]):
        self._messages = messages

    def __getitem__(self, at: Any) -> Any:
        return [message_digest(m) for m in self._messages[at]] if isinstance(at, slice) else message_digest(self._messages[at])

    def __len__(self) -> int:
        return len(self._messages)


def _covered(tree: SessionTree, digests: Sequence[bytes], preamble: bytes) -> int:
    """How many messages at the beginning an earlier request of this conversation has made context of a start."""
    fitting = (n for n in sorted(tree.covered, reverse=True) if n < len(digests))
    return next((n for n in fitting if tree.context_under(None, run_key(digests[:n], preamble)) is not None), 0)


def _find(tree: SessionTree, here: Context | None, message: Message) -> Turn | None:
    siblings = list(reversed(here.turns)) if here is not None else []
    if message.tool_calls:
        ids = {c.id for c in message.tool_calls}
        for turn in siblings:
            if ids & {c.id for c in turn.answer.tool_calls}:
                return turn
        elsewhere = [t for i in (c.id for c in message.tool_calls) for t in tree.turns_of_call(i)]
        # an id that a model wrote itself can occur in two conversations; then the words decide
        for turn in reversed(elsewhere):
            if len(set(map(id, elsewhere))) == 1 or not differences(turn, message) & _MATERIAL:
                return turn
        return next((t for t in siblings if _same_calls(t, message) and not differences(t, message) & {"text"}), None)
    return next((t for t in siblings if not t.answer.tool_calls and "text" not in differences(t, message)), None)


def differences(turn: Turn, message: Message) -> set[str]:
    """How a client's copy differs from our answer; empty when it is the same."""
    answer, kinds = turn.answer, set()
    if message.text != answer.content:
        ours, theirs = (_spaced(answer.content), _spaced(message.text))
        if ours == theirs:
            kinds.add("spacing")
        elif _spaced(_THINK.sub("", answer.content)) == theirs:
            kinds.add("reasoning")
        else:
            kinds.add("text")
    if (answer.reasoning or "").strip() != (message.reasoning or "").strip():
        kinds.add("reasoning")
    if not _same_names(turn, message):
        kinds.add("calls")
    else:
        for ours_call, theirs_call in zip(answer.tool_calls, message.tool_calls, strict=True):
            if ours_call.arguments != theirs_call.arguments:
                same = parsed_arguments(ours_call.arguments) == parsed_arguments(theirs_call.arguments)
                kinds.add("serialisation" if same else "arguments")
    return kinds


def _same_names(turn: Turn, message: Message) -> bool:
    return [c.name for c in turn.answer.tool_calls] == [c.name for c in message.tool_calls]


def _same_calls(turn: Turn, message: Message) -> bool:
    return _same_names(turn, message) and all(
        parsed_arguments(a.arguments) == parsed_arguments(b.arguments)
        for a, b in zip(turn.answer.tool_calls, message.tool_calls, strict=True)
    )


def _spaced(text: str) -> str:
    return " ".join(text.split())
