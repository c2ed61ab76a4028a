"""Parameter counts against the instantiated models, KV bytes against what vLLM reported, and the errors of unreadable files."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swerl.facts.shape import ShapeError, read_shape, shape_of

SHAPES = Path(__file__).parent / "shapes"
QWEN3_06B = orjson.loads((SHAPES / "qwen3-0.6b.json").read_bytes())
QWEN3_30B_A3B = orjson.loads((SHAPES / "qwen3-30b-a3b.json").read_bytes())
SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 128,
}


def test_published_sizes():
    dense, moe = shape_of(QWEN3_06B), shape_of(QWEN3_30B_A3B)
    assert dense.parameters == dense.active_parameters == 596_049_920
    assert moe.parameters == 30_532_122_624
    assert round(moe.active_parameters / 1e9, 1) == 3.3 or round(moe.active_parameters / 1e9, 1) == 3.4
    assert dense.exact and moe.exact and moe.is_moe and not dense.is_moe


def test_kv_bytes_equal_what_vllm_reported():
    """One H100 at utilisation 0.6 gave 45.96 GiB to the cache and 430,304 tokens: 114,688 bytes each."""
    shape = shape_of(QWEN3_06B)
    assert shape.kv_bytes_per_token("bfloat16") == 114_688
    assert abs(45.96 * 2**30 / shape.kv_bytes_per_token("bfloat16") - 430_304) < 50


def test_kv_heads_split_over_ranks_and_repeat_beyond_their_number():
    shape = shape_of(QWEN3_30B_A3B)
    whole = shape.kv_bytes_per_token("bfloat16")
    assert [shape.kv_bytes_per_token("bfloat16", tp) for tp in (1, 2, 4, 8)] == [whole, whole // 2, whole // 4, whole // 4]


@pytest.mark.train
@pytest.mark.parametrize(
    ("config_class", "extra"),
    [
        ("LlamaConfig", {}),
        ("LlamaConfig", {"attention_bias": True, "tie_word_embeddings": True}),
        ("MistralConfig", {"head_dim": 16}),
        ("Qwen2Config", {"tie_word_embeddings": True}),
        ("Qwen3Config", {"head_dim": 32}),
        ("MixtralConfig", {"num_local_experts": 4, "num_experts_per_tok": 2}),
        (
            "Qwen2MoeConfig",
            {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 40},
        ),
        (
            "Qwen3MoeConfig",
            {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "head_dim": 32, "mlp_only_layers": [1]},
        ),
    ],
)
def test_count_equals_the_instantiated_model(config_class: str, extra: dict, tmp_path: Path):
    import torch
    import transformers

    config = getattr(transformers, config_class)(**SMALL, **extra)
    config.save_pretrained(tmp_path)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    shape = read_shape(tmp_path / "config.json")
    assert shape.exact
    assert shape.parameters == model.num_parameters()


def test_language_model_inside_a_wrapper():
    shape = shape_of({"architectures": ["Wrapped"], "model_type": "wrapped", "text_config": {**QWEN3_30B_A3B, "num_key_value_heads": 2}})
    assert shape.kv_heads == 2 and shape.architecture == "Wrapped" and shape.parameters > 3e10


def test_hybrid_layers_keep_no_cache():
    kinds = ["linear_attention"] * 3 + ["full_attention"]
    shape = shape_of({**QWEN3_06B, "model_type": "qwen3_next", "layer_types": kinds * 7})
    assert shape.attention_layers == 7 and shape.is_hybrid and not shape.exact
    assert shape_of({**QWEN3_06B, "full_attention_interval": 4}).attention_layers == 7


@pytest.mark.parametrize("missing", ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"])
def test_missing_key_is_named(missing: str):
    with pytest.raises(ShapeError, match=missing):
        shape_of({k: v for k, v in QWEN3_06B.items() if k != missing})


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"'])
def test_unreadable_file(tmp_path: Path, text: str):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ShapeError):
        read_shape(tmp_path / "config.json")


@given(
    layers=st.integers(1, 80),
    heads=st.sampled_from([4, 8, 16, 32]),
    group=st.sampled_from([1, 2, 4]),
    hidden=st.sampled_from([64, 512, 4096]),
    tied=st.booleans(),
)
def test_parts_never_exceed_the_whole(layers: int, heads: int, group: int, hidden: int, tied: bool):
    config = {**QWEN3_06B, "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": heads // group}
    shape = shape_of({**config, "hidden_size": hidden, "tie_word_embeddings": tied})
    assert shape.largest_layer * layers < shape.parameters
    assert shape.parameters - shape.largest_layer * layers == shape.vocab * hidden * (1 if tied else 2) + hidden
    assert orjson.loads(orjson.dumps(config))["num_hidden_layers"] == shape.layers
