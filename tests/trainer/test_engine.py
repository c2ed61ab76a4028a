"""The engine on the CPU, on verl's own code: a stand-in for flash-attn-4's function has its rule for keys, everything above it is real."""

from __future__ import annotations

import inspect
import sys
import types

import pytest

pytest.importorskip("verl")
import torch
import transformers.modeling_flash_attention_utils as flash
from torch import nn

from swerl.trainer import attention, logprobs
from swerl.trainer.compiles import Counter

BLOCK = 64
SHAPE = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "head_dim": 8}


class Kernel:
    """flash-attn-4's function over packed sequences, computed by sdpa. ``keys``: the part of its compile keys that comes from lengths."""

    def __init__(self) -> None:
        self.keys: set[object] = set()
        self.calls = 0

    def __call__(
        self, q, k, v, *, cu_seqlens_q=None, cu_seqlens_k=None, max_seqlen_q=None, max_seqlen_k=None, softmax_scale=None, causal=False
    ):
        self.calls += 1
        rounded = (max_seqlen_q + BLOCK - 1) // BLOCK * BLOCK
        self.keys.add((q.dtype, rounded // BLOCK == 1))  # a tensor here is equal to no other
        pieces = []
        for start, end in zip(cu_seqlens_q.tolist(), cu_seqlens_q.tolist()[1:], strict=False):
            assert end - start <= int(max_seqlen_q)
            one = (x[start:end].transpose(0, 1) for x in (q, k, v))
            got = nn.functional.scaled_dot_product_attention(*one, is_causal=causal, scale=softmax_scale, enable_gqa=True)
            pieces.append(got.transpose(0, 1))
        return torch.cat(pieces)

    def dense(self, q, k, v, *, softmax_scale=None, causal=False):
        """What transformers calls for a batch that is one sequence, unless it is told a packing."""
        one = (x.transpose(1, 2) for x in (q, k, v))
        return nn.functional.scaled_dot_product_attention(*one, is_causal=causal, scale=softmax_scale, enable_gqa=True).transpose(1, 2)


@pytest.fixture
def kernel(monkeypatch):
    kernel = Kernel()
    cute = types.ModuleType("flash_attn.cute")
    cute.flash_attn_varlen_func = lambda q, k, v, **kwargs: kernel(q, k, v, **kwargs)
    cute.flash_attn_varlen_func.__signature__ = inspect.signature(kernel.__call__)  # transformers looks what it takes
    cute.flash_attn_func = kernel.dense
    package = types.ModuleType("flash_attn")
    package.cute = cute
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    monkeypatch.setitem(sys.modules, "flash_attn.cute", cute)
    monkeypatch.setattr(flash, "_loaded_implementation", None)
    kernel.module = cute
    yield kernel
    attention.announce(None)


def model(tied: bool = False):
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    config = Qwen3Config(**SHAPE, num_key_value_heads=2, tie_word_embeddings=tied, attn_implementation="sdpa")
    made = Qwen3ForCausalLM(config)
    made.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return made.train()


def batch(lengths, seed=1):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, SHAPE["vocab_size"], (1, sum(lengths)), generator=generator)
    positions = torch.cat([torch.arange(n) for n in lengths]).unsqueeze(0)
    return ids, positions, torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()])


STEPS = ([3, 5, 9], [70, 2], [300], [1, 1, 1, 1], [129, 64, 63], [600, 20])


def train(made, kernel, announced: bool):
    """Forward and backward of each step, under gradient checkpointing, as verl patches attention."""
    import verl.models.transformers.monkey_patch as patch
    from transformers.integrations import flash_attention

    made.config._attn_implementation = "flash_attention_4"
    before = flash_attention._flash_attention_forward
    flash_attention._flash_attention_forward = patch._ulysses_flash_attention_forward
    try:
        losses = []
        for lengths in STEPS:
            ids, positions, offsets = batch(lengths)
            attention.announce(attention.Packing.of(offsets, padding=0) if announced else None)
            made(input_ids=ids, position_ids=positions, use_cache=False).logits.square().mean().backward()
            losses.append(made.model.embed_tokens.weight.grad.clone())
            made.zero_grad()
        return losses
    finally:
        flash_attention._flash_attention_forward = before


def installed(monkeypatch, kernel):
    import verl.models.transformers.monkey_patch as patch

    monkeypatch.setattr(patch, "_flash_attention_forward", attention.packed(patch._flash_attention_forward))
    monkeypatch.setattr(kernel.module, "flash_attn_varlen_func", attention.with_integers(kernel.module.flash_attn_varlen_func))


def test_one_key_over_layers_steps_and_shapes(monkeypatch, kernel):
    installed(monkeypatch, kernel)
    train(model(), kernel, announced=True)
    assert kernel.calls == 2 * SHAPE["num_hidden_layers"] * len(STEPS)  # forward and its recomputation
    assert len(kernel.keys) == 1


def test_without_the_remedy_no_key_is_found_again(kernel):
    train(model(), kernel, announced=False)
    packed = sum(len(lengths) > 1 for lengths in STEPS)
    assert len(kernel.keys) == kernel.calls == 2 * SHAPE["num_hidden_layers"] * packed


def test_lengths_that_come_as_tensors_are_integers_below(monkeypatch, kernel):
    installed(monkeypatch, kernel)
    train(model(), kernel, announced=False)
    assert len(kernel.keys) == 1


def test_the_packing_gives_the_gradients_of_the_position_ids(monkeypatch, kernel):
    plain = train(model(), kernel, announced=False)
    installed(monkeypatch, kernel)
    told = train(model(), kernel, announced=True)
    for one, other in zip(plain, told, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-7)


def test_padding_is_a_sequence_of_its_own():
    packing = attention.Packing.of(torch.tensor([0, 5, 9]), padding=3)
    assert packing.offsets.tolist() == [0, 5, 9, 12]
    assert packing.tokens == 12
    assert packing.longest == attention.SHORTEST


def test_another_micro_batch_s_packing_is_refused(monkeypatch, kernel):
    installed(monkeypatch, kernel)
    made = model()
    made.config._attn_implementation = "flash_attention_4"
    import verl.models.transformers.monkey_patch as patch
    from transformers.integrations import flash_attention

    monkeypatch.setattr(flash_attention, "_flash_attention_forward", patch._ulysses_flash_attention_forward)
    ids, positions, _ = batch([4, 4])
    attention.announce(attention.Packing.of(torch.tensor([0, 9]), padding=0))
    with pytest.raises(RuntimeError, match="8\\) tokens in a micro-batch of 9"):
        made(input_ids=ids, position_ids=positions, use_cache=False)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_and_gradients_by_chunks_are_those_of_the_logits(monkeypatch, tied, temperature):
    monkeypatch.setattr(logprobs, "CHUNK_TOKENS", 7)  # several, and a shorter last one
    ids, positions, _ = batch([11, 30])
    labels = ids.roll(-1, -1)
    plain = model(tied)
    logits = plain(input_ids=ids, position_ids=positions, use_cache=False).logits / temperature
    expected = logits.log_softmax(-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    expected.sum().backward()

    chunked = model(tied)
    logprobs.install(chunked)
    got = chunked(input_ids=ids, position_ids=positions, use_cache=False, temperature=temperature, shift_labels=labels, return_dict=True)
    torch.testing.assert_close(got.log_probs, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(got.entropy, entropy, rtol=0, atol=1e-5)
    got.log_probs.sum().backward()
    for (name, one), other in zip(plain.named_parameters(), chunked.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5, msg=name)


def test_bfloat16_correlates():
    ids, positions, _ = batch([200, 300])
    made = model()
    with torch.no_grad():
        exact = made(input_ids=ids, position_ids=positions, use_cache=False).logits.log_softmax(-1)
        exact = exact.gather(-1, ids.roll(-1, -1).unsqueeze(-1)).squeeze(-1)
        logprobs.install(made.bfloat16())
        got = made(input_ids=ids, position_ids=positions, use_cache=False, temperature=1.0).log_probs
    assert torch.corrcoef(torch.stack([exact.exp()[0], got.exp()[0]]))[0, 1] >= 0.9999


def test_what_a_model_does_to_its_logits_is_seen():
    made = model()
    logprobs.install(made)
    ids, _, _ = batch([16])
    assert logprobs.differ_by(made, ids) < 1e-5
    whole = made.logits_forward

    def capped(*args, **kwargs):
        answer = whole(*args, **kwargs)
        answer.logits = 0.1 * torch.tanh(answer.logits / 0.1)
        return answer

    made.logits_forward = capped
    assert logprobs.differ_by(made, ids) > 1e-3


def test_compiles_are_counted_with_their_time(monkeypatch):
    monkeypatch.delenv("TORCHDYNAMO_DISABLE", raising=False)
    counter = Counter()
    from torch._dynamo.callback import callback_handler

    start, end = counter.graph_begins, counter.graph_ends
    callback_handler.register_start_callback(start)
    callback_handler.register_end_callback(end)
    try:
        twice = torch.compile(lambda x: x * 2 + 1, backend="eager")
        twice(torch.ones(3))
        first = counter.total()
        twice(torch.ones(3))
        assert first.count == 1 and first.seconds > 0
        assert counter.total() == first
        twice(torch.ones(3, 3))
        assert counter.total().count == 2
    finally:
        callback_handler.remove_start_callback(start)
        callback_handler.remove_end_callback(end)
    compiled = counter.timed(lambda: 7)
    assert compiled() == 7
    assert counter.total().count == 3


def test_log_probabilities_by_chunks_through_adapters():
    """PEFT wraps the model after the chunks are installed: they are asked for through it, and only adapters get a gradient."""
    from peft import LoraConfig, get_peft_model

    made = model()
    logprobs.install(made)
    made.enable_input_require_grads()
    adapted = get_peft_model(made, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    ids, _, _ = batch([40])
    assert logprobs.differ_by(adapted, ids) < 1e-4
    with adapted.disable_adapter():
        assert logprobs.differ_by(adapted, ids) < 1e-4
    adapted(input_ids=ids, use_cache=False, temperature=1.0).log_probs.sum().backward()
    graded = {name for name, parameter in adapted.named_parameters() if parameter.grad is not None}
    assert graded and graded == {name for name, _ in adapted.named_parameters() if ".lora_" in name}
