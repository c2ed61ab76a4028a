"""The forecast's arithmetic: exact parts against measurements and hand-made numbers, estimates by their invariants."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from swerl.facts.memory import GIB, Plan, forecast
from swerl.facts.shape import read_shape
from swerl.forecast.text import render

SHAPES = Path(__file__).parent / "shapes"
QWEN3_06B = read_shape(SHAPES / "qwen3-0.6b.json")
QWEN3_30B_A3B = read_shape(SHAPES / "qwen3-30b-a3b.json")
REFERENCE = Plan(
    gpus=8,
    gpu_memory_bytes=80 * GIB,
    gen_tp=4,
    gpu_memory_utilization=0.85,
    rollout_dtype="bfloat16",
    max_num_seqs=96,
    max_model_length=128_000,
    max_batched_tokens=8192,
    kv_cache_bytes=None,
    prompts_per_step=64,
    samples_per_prompt=8,
    mini_batch_prompts=64,
    prompt_tokens=40_000,
    response_tokens=68_000,
    tokens_per_gpu=27_000,
    sequence_parallel=4,
    param_dtype="bfloat16",
    gradient_checkpointing=True,
    flash_attention=True,
    entropy=False,
    steps=75,
    save_every=5,
    keep_checkpoints=3,
    save_hf=False,
    live_trials=16,
)


def test_measured_kv_capacity_of_one_h100():
    """verl with Qwen3-0.6B's shape on one H100 at utilisation 0.6: vLLM reported 45.96 GiB and 430,304 tokens."""
    plan = replace(REFERENCE, gpus=1, gen_tp=1, gpu_memory_bytes=int(79.11 * GIB), gpu_memory_utilization=0.6, max_num_seqs=256)
    engine = forecast(QWEN3_06B, plan).engine
    assert abs(engine.kv_tokens - 430_304) / 430_304 < 0.01


def test_reference_profile():
    result = forecast(QWEN3_30B_A3B, REFERENCE)
    assert result.trials_per_step == 512 and result.updates_per_step == 1
    assert result.engine.replicas == 2 and result.engine.kv_bytes_per_token == 48 * 2 * 1 * 128 * 2
    assert result.disk.save_bytes == 30_532_122_624 * 12
    assert result.disk.saves == 15 and result.disk.peak_bytes == 4 * result.disk.save_bytes
    text = render(result)
    assert "64 x 8 = 512" in text and "30.53B parameters" in text and "24,576 B a token" in text


def test_cache_of_the_cpu_engine_is_exact():
    result = forecast(QWEN3_06B, replace(REFERENCE, kv_cache_bytes=GIB, gpus=1, gen_tp=1, gpu_memory_bytes=None))
    assert result.engine.exact and result.engine.kv_tokens == GIB // 114_688
    assert "~" not in render(result).splitlines()[3]


def test_unknown_gpu_and_unknown_steps_are_said():
    result = forecast(QWEN3_06B, replace(REFERENCE, gpu_memory_bytes=None, steps=None, keep_checkpoints=None))
    assert result.engine.kv_tokens is None and result.disk.peak_bytes is None
    assert "not known here" in render(result)


def test_retention():
    shape = QWEN3_06B

    def peak(**changes) -> float:
        store = forecast(shape, replace(REFERENCE, **changes)).disk
        return store.peak_bytes / store.save_bytes if store.save_bytes and store.peak_bytes else 0

    assert peak(keep_checkpoints=None) == 15
    assert peak(keep_checkpoints=1) == 2  # the new one is committed before the old one goes
    assert peak(keep_checkpoints=2, steps=10) == 2
    assert peak(keep_checkpoints=1, steps=3) == 1
    assert peak(keep_checkpoints=40) == 15


@given(
    gpus=st.sampled_from([1, 2, 4, 8, 16]),
    utilization=st.floats(0.1, 0.95),
    tokens=st.integers(64, 200_000),
    checkpointing=st.booleans(),
    tensor_parallel=st.sampled_from([1, 2, 4]),
)
def test_monotone(gpus: int, utilization: float, tokens: int, checkpointing: bool, tensor_parallel: int):
    shape = QWEN3_30B_A3B
    plan = replace(
        REFERENCE,
        gpus=gpus,
        gpu_memory_utilization=utilization,
        tokens_per_gpu=tokens,
        gradient_checkpointing=checkpointing,
        gen_tp=tensor_parallel,
    )
    here = forecast(shape, plan)
    assert forecast(shape, replace(plan, gpus=gpus * 2)).trainer.state_bytes <= here.trainer.state_bytes
    more = forecast(shape, replace(plan, tokens_per_gpu=tokens + 1)).trainer
    assert more.activation_bytes > here.trainer.activation_bytes and more.peak_bytes >= here.trainer.peak_bytes
    assert here.trainer.activation_bytes >= forecast(shape, replace(plan, gradient_checkpointing=True)).trainer.activation_bytes
    assert 0 <= here.engine.kv_tokens <= forecast(shape, replace(plan, gpu_memory_utilization=utilization + 0.01)).engine.kv_tokens
    assert here.engine.kv_bytes + here.engine.weight_bytes <= plan.gpu_memory_bytes * utilization or here.engine.kv_bytes == 0
