"""Tokenising long prompts piece by piece, so that a part seen before (system text, tools, an old tool result) is not tokenised again.

A fast tokenizer takes its added tokens out of a text first and works on what lies between them separately. So a text may be cut in front of
an added token without changing a single token, as long as that token is matched as it stands: it eats no spaces, ignores no word borders,
overlaps no other added token, and no pre-tokenizer treats the beginning of a text specially. `cut_tokens` picks the tokens for which this
holds by reading tokenizer.json; with none of them a text is tokenised whole. A property test compares both ways.
"""

from __future__ import annotations

import re
from array import array
from collections import OrderedDict
from collections.abc import Callable, Mapping
from itertools import pairwise
from threading import Lock
from typing import Any

_LONG_CHARACTERS = 1024  # shorter pieces cost less to tokenise than to keep
_CAPACITY_TOKENS = 4_000_000


def cut_tokens(tokenizer_json: Mapping[str, Any]) -> list[str]:
    added = tokenizer_json.get("added_tokens") or []
    if _treats_beginnings_specially(tokenizer_json.get("pre_tokenizer")) or _treats_beginnings_specially(tokenizer_json.get("normalizer")):
        return []
    texts = [token["content"] for token in added]
    return [
        token["content"]
        for token in added
        if token["special"]
        and not (token["lstrip"] or token["rstrip"] or token["single_word"] or token["normalized"])
        and not any(_overlap(token["content"], other) for other in texts if other != token["content"])
    ]


def _treats_beginnings_specially(part: Mapping[str, Any] | None) -> bool:
    if part is None:
        return False
    inner = [*(part.get("pretokenizers") or ()), *(part.get("normalizers") or ())]
    return part["type"] in ("Prepend", "Metaspace") or any(map(_treats_beginnings_specially, inner))


def _overlap(a: str, b: str) -> bool:
    """One contains the other, or one's end is the other's beginning."""
    ends = any(a.endswith(b[:i]) or b.endswith(a[:i]) for i in range(1, min(len(a), len(b))))
    return ends or a in b or b in a


class Pieces:
    """``encode`` tokenises a text whole. Safe to use from several threads."""

    def __init__(self, encode: Callable[[str], list[int]], cuts: list[str], capacity_tokens: int = _CAPACITY_TOKENS):
        self._encode, self._capacity = encode, capacity_tokens
        self._cut = re.compile("|".join(re.escape(c) for c in sorted(cuts, key=len, reverse=True))) if cuts else None
        self._known: OrderedDict[str, array[int]] = OrderedDict()
        self._held = 0
        self._lock = Lock()

    def encode(self, text: str) -> list[int]:
        if self._cut is None or len(text) < _LONG_CHARACTERS:
            return self._encode(text)
        starts = [0, *(m.start() for m in self._cut.finditer(text) if m.start()), len(text)]
        ids: list[int] = []
        begin = 0  # of the short pieces that are waiting to be tokenised together
        for start, end in pairwise(starts):
            if end - start >= _LONG_CHARACTERS:
                if begin < start:
                    ids += self._encode(text[begin:start])
                ids += self._long(text[start:end])
                begin = end
        return ids + self._encode(text[begin:]) if begin < len(text) else ids

    def _long(self, piece: str) -> array[int]:
        with self._lock:
            if (known := self._known.get(piece)) is not None:
                self._known.move_to_end(piece)
                return known
        made = array("I", self._encode(piece))
        with self._lock:
            if piece not in self._known:
                self._known[piece] = made
                self._held += len(made)
                while self._held > self._capacity and len(self._known) > 1:
                    self._held -= len(self._known.popitem(last=False)[1])
        return made
