"""The policy's tokenizer, its stop tokens and its chat template text, read from the model's directory.

`FastTokenizer` reads ``tokenizer.json`` with the ``tokenizers`` package alone, so that the gateway is up in a second and needs no torch.
A model without that file goes through transformers (`TransformersTokenizer`), which costs seconds at start. Both encode exactly as
``transformers.AutoTokenizer`` does with ``add_special_tokens=False``; a test compares them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import orjson

from swerl.errors import fail
from swerl.gateway.pieces import Pieces, cut_tokens

_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class Tokenizer(Protocol):
    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int], *, skip_special: bool) -> str: ...

    def id_of(self, token: str) -> int | None: ...


class FastTokenizer:
    def __init__(self, model_path: Path):
        from tokenizers import Tokenizer as Backend

        # one text at a time has nothing to share among threads, and idle ones of the pool cost more than they bring
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self._backend = Backend.from_file(str(model_path / "tokenizer.json"))
        self._backend.no_truncation()
        self._backend.no_padding()
        self._pieces = Pieces(self._whole, cut_tokens(orjson.loads((model_path / "tokenizer.json").read_bytes())))

    def encode(self, text: str) -> list[int]:
        return self._pieces.encode(text)

    def _whole(self, text: str) -> list[int]:
        # the batch call releases the interpreter lock, the single one does not; the fast one leaves out offsets
        return self._backend.encode_batch_fast([text], add_special_tokens=False)[0].ids

    def decode(self, ids: Sequence[int], *, skip_special: bool) -> str:
        return self._backend.decode(ids, skip_special_tokens=skip_special)

    def id_of(self, token: str) -> int | None:
        return self._backend.token_to_id(token)


class TransformersTokenizer:
    def __init__(self, model_path: Path):
        from transformers import AutoTokenizer

        self._backend = AutoTokenizer.from_pretrained(str(model_path))

    def encode(self, text: str) -> list[int]:
        return self._backend.encode(text, add_special_tokens=False)

    def decode(self, ids: Sequence[int], *, skip_special: bool) -> str:
        return self._backend.decode(list(ids), skip_special_tokens=skip_special)

    def id_of(self, token: str) -> int | None:
        found = self._backend.convert_tokens_to_ids(token)
        return None if found is None or found == self._backend.unk_token_id else found


def load_tokenizer(model_path: Path) -> Tokenizer:
    if (model_path / "tokenizer.json").is_file():
        return FastTokenizer(model_path)
    if not (model_path / "tokenizer_config.json").is_file():
        raise fail("SWERL-G001", "the model has no tokenizer", "point model.model_path at a directory with tokenizer.json", str(model_path))
    return TransformersTokenizer(model_path)


def special_tokens(model_path: Path) -> dict[str, str]:
    """Named special tokens (``eos_token``, ...) as templates receive them."""
    merged = {**_json(model_path / "special_tokens_map.json"), **_json(model_path / "tokenizer_config.json")}
    found = {name: _content(merged[name]) for name in _NAMED_TOKENS if merged.get(name)}
    extra = merged.get("extra_special_tokens")
    if isinstance(extra, dict):
        found.update({name: _content(value) for name, value in extra.items()})
    return found


def stop_token_ids(model_path: Path, tokenizer: Tokenizer) -> frozenset[int]:
    """Tokens that end a turn by themselves: what the generation config says, and the tokenizer's end-of-sequence."""
    ids: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        value = _json(model_path / name).get("eos_token_id")
        ids.update(value if isinstance(value, list) else [] if value is None else [value])
    eos = special_tokens(model_path).get("eos_token")
    if eos is not None and (eos_id := tokenizer.id_of(eos)) is not None:
        ids.add(eos_id)
    if not ids:
        raise fail(
            "SWERL-G002", "no end-of-turn token is known for the model", "add eos_token_id to generation_config.json", str(model_path)
        )
    return frozenset(ids)


def template_texts(model_path: Path, override: Path | None) -> dict[str, str]:
    """Chat templates by name; "default" is always there. ``override`` is the file a user names instead of the model's own."""
    if override is not None:
        return {"default": override.read_text()}
    if (file := model_path / "chat_template.jinja").is_file():
        extra = {f.stem: f.read_text() for f in sorted((model_path / "additional_chat_templates").glob("*.jinja"))}
        return {"default": file.read_text(), **extra}
    for name in ("chat_template.json", "tokenizer_config.json"):
        value = _json(model_path / name).get("chat_template")
        if isinstance(value, str):
            return {"default": value}
        if isinstance(value, list):
            named = {entry["name"]: entry["template"] for entry in value}
            if "default" in named:
                return named
    raise fail(
        "SWERL-G003", "the model has no chat template", "set model.chat_template to a Jinja file, or use a chat model", str(model_path)
    )


def _json(path: Path) -> dict[str, Any]:
    return orjson.loads(path.read_bytes()) if path.is_file() else {}


def _content(value: Any) -> str:
    return value["content"] if isinstance(value, dict) else value
