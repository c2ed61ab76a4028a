"""The count of adapters' parameters against PEFT on the instantiated models, and what the forecast makes of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from swerl.facts.adapters import adapter_parameters
from swerl.facts.memory import forecast, trained_parameters
from swerl.facts.shape import read_shape, shape_of
from swerl.forecast.text import render

from .test_forecast import REFERENCE

QWEN3_06B = read_shape(Path(__file__).parent / "shapes" / "qwen3-0.6b.json")
SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 128,
}
MIXTURE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
LORA = replace(REFERENCE, gpus=1, gen_tp=1, lora_rank=32)


@pytest.mark.train
@pytest.mark.parametrize(
    ("family", "extra", "targets", "exclude"),
    [
        ("LlamaConfig", {}, ["all-linear"], []),
        ("Qwen2Config", {"tie_word_embeddings": True}, ["all-linear"], ["down_proj"]),
        ("Qwen3Config", {"head_dim": 32}, ["all-linear"], []),
        ("Qwen3Config", {"head_dim": 32}, ["q_proj", "self_attn.o_proj"], []),
        ("Qwen3MoeConfig", MIXTURE, ["q_proj", "k_proj", "v_proj", "o_proj"], []),
    ],
)
def test_count_equals_pefts(family, extra, targets, exclude):
    torch, transformers, peft = pytest.importorskip("torch"), pytest.importorskip("transformers"), pytest.importorskip("peft")
    config = getattr(transformers, family)(**SMALL, **extra)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
        wanted = "all-linear" if targets == ["all-linear"] else targets
        settings = peft.LoraConfig(r=8, target_modules=wanted, exclude_modules=exclude or None, task_type="CAUSAL_LM")
        made = peft.get_peft_model(model, settings)
    assert adapter_parameters(shape_of(config.to_dict()), 8, targets, exclude) == made.get_nb_trainable_parameters()[0]


def test_what_adapters_change_in_a_forecast():
    """States, checkpoints and offloading are the adapters'; the engine's sleeping weights stay in host memory."""
    whole, lora = (forecast(QWEN3_06B, plan) for plan in (replace(LORA, lora_rank=0), LORA))
    trained = trained_parameters(QWEN3_06B, LORA)
    assert trained == adapter_parameters(QWEN3_06B, 32, ["all-linear"])
    assert whole.trainer.state_bytes == 16 * QWEN3_06B.parameters
    assert lora.trainer.state_bytes == 2 * QWEN3_06B.parameters + 16 * trained
    assert lora.disk.save_bytes == 12 * trained and whole.disk.save_bytes == 12 * QWEN3_06B.parameters
    assert (lora.host.engine_bytes, whole.host.engine_bytes) == (2 * QWEN3_06B.parameters, 0)
    assert "rank 32" in render(lora) and "adapters" not in render(whole)
