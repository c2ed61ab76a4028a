"""Nodes of a session tree as journal lines, and back. The fields are described in `journal`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from swerl.gateway.chat import Answer
from swerl.gateway.sampling import Sampled
from swerl.gateway.tree import Context, SessionTree, Tokens, Turn


def context_record(node: Context) -> dict[str, Any]:
    return {
        "k": "ctx",
        "id": node.id,
        "parent": None if node.parent is None else node.parent.id,
        "key": node.key.hex(),
        "tokens": node.tokens.fragment(),
        "copy_of": None if node.copy_of is None else node.copy_of.id,
        "signature": node.signature.hex(),
        "tools": node.tool_count,
        "covers": node.covers,
    }


def turn_record(
    id: int, parent: Context, sampled: Sampled, answer: Answer, *, probe: bool, hold_s: float, model_s: float = 0.0
) -> dict[str, Any]:
    return {
        "k": "turn",
        "id": id,
        "parent": parent.id,
        "tokens": sampled.token_ids,
        "logprobs": sampled.logprobs,
        "versions": sampled.versions,
        "answer": answer.as_record(),
        "probe": probe,
        "cached": sampled.cached_tokens,
        "hold_s": round(hold_s, 3),
        "model_s": round(model_s, 3),
        "time": time.time(),
    }


class TreeReader:
    """Puts nodes back, in the order of the journal: a parent's line stands before its children's."""

    def __init__(self, tree: SessionTree):
        self.tree = tree
        self.contexts: dict[int, Context] = {}
        self.turns: dict[int, Turn] = {}

    def add_context(self, r: Mapping[str, Any]) -> None:
        parent = None if r["parent"] is None else self.contexts.get(r["parent"]) or self.turns[r["parent"]]
        node = self.tree.add_context(
            parent,
            bytes.fromhex(r["key"]),
            Tokens.of(r["tokens"]),
            copy_of=None if r["copy_of"] is None else self.turns[r["copy_of"]],
            signature=bytes.fromhex(r["signature"]),
            tool_count=r["tools"],
            covers=r["covers"],
            id=r["id"],
        )
        node.saved = True
        self.contexts[node.id] = node

    def add_turn(self, r: Mapping[str, Any]) -> None:
        parent, answer = self.contexts[r["parent"]], Answer.from_record(r["answer"])
        self.turns[r["id"]] = self.tree.add_turn(
            parent, r["tokens"], r["logprobs"], r["versions"], answer, probe=r["probe"], cached_tokens=r["cached"], id=r["id"]
        )


def read_tree(records: Iterable[Mapping[str, Any]]) -> SessionTree:
    """The tree of a journal's lines; lines of other kinds are passed over."""
    reader = TreeReader(SessionTree())
    for record in records:
        if record["k"] == "ctx":
            reader.add_context(record)
        elif record["k"] == "turn":
            reader.add_turn(record)
        elif record["k"] == "seen":
            reader.turns[record["turn"]].delivered = True
    return reader.tree
