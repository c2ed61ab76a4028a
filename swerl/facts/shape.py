"""The shape of a policy, read from its ``config.json`` alone: parameters, KV-cache bytes, and what the engine will and will not accept.

Nothing is guessed from the directory's name. Dense Llama, Mistral, Qwen2 and Qwen3 and the MoE families Mixtral, Qwen2-MoE and Qwen3-MoE
are counted exactly (proved against the instantiated models in ``tests/forecast/test_shape.py``); for any other architecture the count is
marked as an estimate in ``ModelShape.exact``. A multimodal or wrapped checkpoint keeps its language model under ``text_config`` or
``llm_config``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

NESTED = ("text_config", "llm_config")
EXACT = {"llama", "mistral", "qwen2", "qwen3", "mixtral", "qwen2_moe", "qwen3_moe"}
DTYPE_BYTES = {"float32": 4, "float": 4, "bfloat16": 2, "float16": 2, "half": 2, "fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1}
_MOE_KEYS = ("num_experts", "n_routed_experts", "num_local_experts", "num_experts_per_tok", "moe_intermediate_size")


class ShapeError(ValueError):
    """``config.json`` lacks what the arithmetic needs; the message names the key."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Counts are numbers of elements; ``active_parameters`` are those one token passes through (equal to ``parameters`` if dense)."""

    model_type: str
    architecture: str
    layers: int
    attention_layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    max_positions: int | None
    tied_embeddings: bool
    dtype: str
    experts: int
    experts_per_token: int
    parameters: int
    active_parameters: int
    largest_layer: int
    exact: bool
    mlp_width: int = 0  # of a dense layer

    @property
    def is_moe(self) -> bool:
        return self.experts > 0

    @property
    def is_hybrid(self) -> bool:
        """Some layers keep no per-token cache (linear attention, state space)."""
        return self.attention_layers < self.layers

    def kv_bytes_per_token(self, cache_dtype: str = "bfloat16", tensor_parallel: int = 1) -> int:
        """Bytes of K and V that one token occupies on one GPU. KV heads are split over the ranks, and repeated when they are fewer."""
        heads = max(1, self.kv_heads // tensor_parallel)
        return self.attention_layers * 2 * heads * self.head_dim * dtype_bytes(cache_dtype)


def dtype_bytes(name: str) -> int:
    """Bytes per element of a torch dtype's name, with or without the ``torch.`` prefix."""
    try:
        return DTYPE_BYTES[name.removeprefix("torch.")]
    except KeyError:
        raise ShapeError(f"unknown dtype {name!r}; known: {', '.join(sorted(DTYPE_BYTES))}") from None


def read_shape(config_json: Path) -> ModelShape:
    """Raises OSError if the file cannot be read and ShapeError if it is no model configuration."""
    try:
        config = orjson.loads(config_json.read_bytes())
    except orjson.JSONDecodeError as error:
        raise ShapeError(f"not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ShapeError("not a JSON object")
    return shape_of(config)


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part that describes the language model."""
    for key in NESTED:
        if isinstance(config.get(key), Mapping):
            return config[key]
    return config


def shape_of(config: Mapping[str, Any]) -> ModelShape:
    text = text_config(config)
    model_type = str(text.get("model_type") or config.get("model_type") or "")
    hidden, layers, heads = _need(text, "hidden_size"), _need(text, "num_hidden_layers"), _need(text, "num_attention_heads")
    kv_heads = int(text.get("num_key_value_heads") or heads)
    head_dim = int(text.get("head_dim") or hidden // heads)
    vocab = _need(text, "vocab_size")
    tied = bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", False)))
    experts = next((int(text[k]) for k in _MOE_KEYS[:3] if text.get(k)), 0)
    per_token = int(text.get("num_experts_per_tok") or (2 if model_type == "mixtral" else 0)) if experts else 0

    attention = _attention(text, model_type, hidden, heads, kv_heads, head_dim)
    sizes, active = [], 0
    for index in range(layers):
        dense_mlp = 3 * hidden * int(text.get("intermediate_size") or 0)
        if experts and _is_sparse(text, index):
            total, used = _experts(text, model_type, hidden, experts, per_token)
        else:
            total = used = dense_mlp
        sizes.append(attention + total + 2 * hidden)
        active += attention + used + 2 * hidden
    outside = vocab * hidden * (1 if tied else 2) + hidden
    return ModelShape(
        model_type=model_type,
        architecture=(config.get("architectures") or ["?"])[0],
        layers=layers,
        attention_layers=_attention_layers(text, layers),
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab=vocab,
        max_positions=text.get("max_position_embeddings"),
        tied_embeddings=tied,
        dtype=str(text.get("dtype") or text.get("torch_dtype") or config.get("dtype") or config.get("torch_dtype") or "float32"),
        experts=experts,
        experts_per_token=per_token,
        parameters=sum(sizes) + outside,
        active_parameters=active + outside,
        largest_layer=max(sizes),
        exact=model_type in EXACT and text.get("hidden_act", "silu") == "silu",
        mlp_width=int(text.get("intermediate_size") or 0),
    )


def _need(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise ShapeError(f"{key} is missing or not a positive integer")
    return value


def _attention(text: Mapping[str, Any], model_type: str, hidden: int, heads: int, kv_heads: int, head_dim: int) -> int:
    """Weights of one attention block, biases and q/k norms included."""
    q, kv = heads * head_dim, kv_heads * head_dim
    weights = hidden * q + 2 * hidden * kv + q * hidden
    if model_type in {"qwen2", "qwen2_moe"}:
        qkv_bias = model_type == "qwen2" or text.get("qkv_bias", True)
        weights += (q + 2 * kv) if qkv_bias else 0
    elif text.get("attention_bias"):
        weights += q + 2 * kv + hidden
    if model_type in {"qwen3", "qwen3_moe"}:
        weights += 2 * head_dim
    return weights


def _is_sparse(text: Mapping[str, Any], index: int) -> bool:
    step = int(text.get("decoder_sparse_step") or 1)
    return (
        index not in (text.get("mlp_only_layers") or [])
        and (index + 1) % step == 0
        and index >= int(text.get("first_k_dense_replace") or 0)
    )


def _experts(text: Mapping[str, Any], model_type: str, hidden: int, experts: int, per_token: int) -> tuple[int, int]:
    """(all, used by one token) weights of a mixture: router, routed experts, shared experts and their gate."""
    width = int(text.get("moe_intermediate_size") or text.get("intermediate_size") or 0)
    one = 3 * hidden * width
    shared_width = int(text.get("shared_expert_intermediate_size") or int(text.get("n_shared_experts") or 0) * width)
    shared = 3 * hidden * shared_width + (hidden if model_type == "qwen2_moe" else 0)
    always = experts * hidden + shared
    return always + experts * one, always + per_token * one


def _attention_layers(text: Mapping[str, Any], layers: int) -> int:
    """Layers with a cache that grows with every token; hybrid models name theirs in ``layer_types`` or by an interval."""
    kinds = text.get("layer_types")
    if isinstance(kinds, list) and kinds:
        return sum("linear" not in str(k) and "mamba" not in str(k) for k in kinds)
    interval = text.get("full_attention_interval")
    return layers // int(interval) if interval else layers
