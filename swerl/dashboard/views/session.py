"""The gateway's record of one trial: the tree of its turns, and the tokens of a turn with log-probability and version.

The journal is read as it is, never repaired: the gateway may be writing it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from swerl.dashboard.context import Seen
from swerl.gateway.records import read_tree
from swerl.gateway.tree import Context, SessionTree, Turn, lineage, main_turn, paths, side_starts
from swerl.record.ledger import objects

_ID = re.compile(r"[\w-]{8,64}")
MAX_TOKENS = 20_000
CONTEXT_CHARS = 20_000


def session_path(seen: Seen, session: str | None) -> Path | None:
    if not session or not _ID.fullmatch(session):
        return None
    path = seen.run.gateway / "sessions" / f"{session}.jsonl"
    return path if path.is_file() else None


def session_tree(path: Path) -> dict[str, Any]:
    """Every turn with its place: ``parent`` is the turn before it, ``main`` the path that is trained by default, ``side`` no part of the
    task (titles, probes), ``start`` numbers the conversations."""
    lines = list(objects(path))
    tree = read_tree(lines)
    times = {line["id"]: line for line in lines if line.get("k") == "turn"}
    main = main_turn(tree)
    on_main = {node.id for node in lineage(main)} if main is not None else set()
    sides = side_starts(tree)
    starts = {start: number for number, start in enumerate(tree.starts.values())}
    opened = next((line for line in lines if line.get("k") == "open"), {})
    closed = next((line for line in reversed(lines) if line.get("k") == "close"), {})
    return {
        "opened": opened.get("time"),
        "closed": closed.get("reason"),
        "marks": [line["what"] for line in lines if line.get("k") == "mark"],
        "turns": [_turn(turn, times.get(turn.id, {}), on_main, starts, turn.start in sides) for turn in tree.turns],
        "paths": [
            {"main": p.main, "prompt": len(p.prompt_ids), "response": len(p.response_ids), "trained": sum(p.response_mask)}
            for p in paths(tree)
        ],
    }


def _turn(turn: Turn, record: Mapping[str, Any], on_main: set[int], starts: Mapping[Context, int], side: bool) -> dict[str, Any]:
    before = turn.parent.parent
    while isinstance(before, Context):
        before = before.parent
    return {
        "id": turn.id,
        "parent": before.id if before is not None else None,
        "start": starts[turn.start],
        "depth": turn.depth,
        "main": turn.id in on_main,
        "side": side,
        "probe": turn.probe,
        "tokens": turn.tokens.count,
        "context": turn.parent.end,
        "cached": turn.cached_tokens,
        "versions": sorted(set(turn.versions)),
        "logprob": sum(turn.logprobs) / len(turn.logprobs),
        "lowest": min(turn.logprobs),
        "time": record.get("time"),
        "model_s": record.get("model_s"),
        "answer": {
            "content": turn.answer.content,
            "reasoning": turn.answer.reasoning,
            "calls": [[call.id, call.name, call.arguments] for call in turn.answer.tool_calls],
            "finish": turn.answer.finish,
        },
    }


def turn_tokens(seen: Seen, session: str, turn_id: int) -> dict[str, Any] | None:
    """The tokens sampled in one turn as ``[text, logprob, version]``, whether they are trained, and the text the turn was added to.

    None when there is no such session or turn. Where the tokenizer cannot be read, texts are the token ids."""
    path = session_path(seen, session)
    if path is None:
        return None
    tree = read_tree(objects(path))
    turn = next((t for t in tree.turns if t.id == turn_id), None)
    if turn is None:
        return None
    tokenizer = load_tokenizer(str(seen.value("model.model_path") or ""))
    ids = turn.tokens.ids()[:MAX_TOKENS]
    texts = pieces(tokenizer, ids) if tokenizer is not None else [f"⟨{id}⟩" for id in ids]
    added = [id for node in _contexts(turn) for id in node.tokens.ids()]
    context = tokenizer.decode(added, skip_special_tokens=False) if tokenizer is not None else " ".join(map(str, added[-2000:]))
    return {
        "tokens": [[text, logprob, version] for text, logprob, version in zip(texts, turn.logprobs, turn.versions, strict=False)],
        "cut": turn.tokens.count > MAX_TOKENS,
        "trained": _is_trained(tree, turn),
        "context": context[-CONTEXT_CHARS:],
        "context_tokens": len(added),
        "decoded": tokenizer is not None,
    }


def contexts_of(seen: Seen, session: str, turns: list[int]) -> dict[int, str] | None:
    """The text that each of these turns was added to; None where the tokenizer or the journal cannot be read."""
    path = session_path(seen, session)
    tokenizer = load_tokenizer(str(seen.value("model.model_path") or ""))
    if path is None or tokenizer is None:
        return None
    known = {turn.id: turn for turn in read_tree(objects(path)).turns}
    return {
        id: tokenizer.decode([token for node in _contexts(known[id]) for token in node.tokens.ids()], skip_special_tokens=False)
        for id in turns
    }


def _contexts(turn: Turn) -> list[Context]:
    """The run of contexts between the turn before and this one, in order."""
    found: list[Context] = []
    node: Any = turn.parent
    while isinstance(node, Context):
        found.append(node)
        node = node.parent
    return found[::-1]


def _is_trained(tree: SessionTree, turn: Turn) -> bool:
    """On the main path, which is what ``capture.paths: main`` trains; with ``all``, every path but side calls."""
    main = main_turn(tree)
    return main is not None and turn in lineage(main)


def pieces(tokenizer: Any, ids: list[int]) -> list[str]:
    """The text that each token adds; a token that ends inside a character adds nothing, and the one that completes it adds it whole."""
    from tokenizers.decoders import DecodeStream

    stream = DecodeStream(skip_special_tokens=False)
    return [stream.step(tokenizer, id) or "" for id in ids]


@lru_cache(maxsize=4)
def load_tokenizer(model_path: str) -> Any:
    """None when the model's directory has none, or this environment cannot read it: token ids are shown then."""
    file = Path(model_path) / "tokenizer.json"
    try:
        from tokenizers import Tokenizer
    except ImportError:
        return None
    return Tokenizer.from_file(str(file)) if model_path and file.is_file() else None
