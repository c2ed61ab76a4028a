"""Cutting a text in front of special tokens changes no token; tokens for which that does not hold are not cut at."""

from __future__ import annotations

import json

from gatewaykit import SPECIAL, WHOLE
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from swerl.gateway import pieces
from swerl.gateway.pieces import Pieces, cut_tokens
from swerl.gateway.tokenizer import FastTokenizer

PARTS = st.sampled_from(
    [*SPECIAL, *WHOLE, "<|im_", "start|>", "<|im_start", " ", "\n", "  \n", "the quick", "é🦊", "<tool", "a" * 1100, "f b " * 300]
)


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(PARTS, max_size=30))
def test_pieces_give_the_tokens_of_the_whole(model_dir, parts):
    text = "".join(parts)
    whole = Tokenizer.from_file(str(model_dir / "tokenizer.json")).encode(text, add_special_tokens=False).ids
    tokenizer = FastTokenizer(model_dir)
    assert tokenizer.encode(text) == whole
    assert tokenizer.encode(text) == whole, "and from what is remembered"


def described(model_dir) -> dict:
    return json.loads((model_dir / "tokenizer.json").read_text())


def test_cuts_are_made_only_where_they_change_nothing(model_dir):
    assert cut_tokens(described(model_dir)) == SPECIAL
    for flag in ("lstrip", "rstrip", "single_word", "normalized"):
        changed = described(model_dir)
        next(t for t in changed["added_tokens"] if t["content"] == "<|im_start|>")[flag] = True
        assert "<|im_start|>" not in cut_tokens(changed)
    for other in ("x<|im_start|>", "|>y", "z<|im_st"):
        changed = described(model_dir)
        changed["added_tokens"].append({**changed["added_tokens"][0], "content": other, "special": False})
        assert "<|im_start|>" not in cut_tokens(changed)
    changed = described(model_dir)
    changed["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [{"type": "Metaspace", "prepend_scheme": "first"}]}
    assert cut_tokens(changed) == []


def test_what_was_seen_is_not_tokenised_again(monkeypatch):
    asked: list[str] = []

    def encode(text: str) -> list[int]:
        asked.append(text)
        return [0] * len(text)

    monkeypatch.setattr(pieces, "_LONG_CHARACTERS", 10)
    cache = Pieces(encode, ["<s>"], capacity_tokens=40)
    system = "<s>" + "system text"
    assert len(cache.encode(system + "<s>one<s>two")) == len(system + "<s>one<s>two")
    assert asked == [system, "<s>one<s>two"]
    asked.clear()
    cache.encode(system + "<s>three")
    assert asked == ["<s>three"]
    cache.encode("<s>" + "another text" + "<s>" + "and one more text")  # pushes the first out
    asked.clear()
    cache.encode(system + "<s>four")
    assert asked == [system, "<s>four"]
