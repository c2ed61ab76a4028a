"""Packed attention that compiles once: what flash attention is told about the sequences of a micro-batch, as Python integers.

flash-attn-4 compiles a kernel per key, and the backward's key holds whether the longest sequence fits one block. transformers takes that
length from the position ids in every layer, as a tensor on the device: a tensor is equal to no other as a key, so the backward would be
compiled anew at every layer of every micro-batch (seconds each), and each layer would wait for the device besides.

`announce` says once per micro-batch where its sequences begin and how long the longest is. The wrapper that `install` puts under verl's
attention hands it on; another one, on flash-attn-4's own function, makes integers of lengths that came some other way (a padded batch, a
vision tower), at the price of waiting for the device there. Recomputation under gradient checkpointing runs before the next micro-batch
is announced and sees the same packing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

# A length is an upper bound to the kernels. None is told less than this, which is above every block size of flash-attn-4: so "fits one
# block" is never true, and micro-batches of short sequences have the key of all others.
SHORTEST = 512


@dataclass(frozen=True, slots=True)
class Packing:
    """One packed micro-batch of ``tokens`` tokens, padding included. ``offsets``: int32 [sequences + 1], on the device; ``longest`` bounds
    the tokens of one sequence."""

    offsets: torch.Tensor
    longest: int
    tokens: int

    @classmethod
    def of(cls, offsets: torch.Tensor, padding: int) -> Packing:
        """From the offsets of a jagged tensor. ``padding`` tokens at the end are a sequence of their own, as verl's position ids have it.
        Waits for the device once."""
        starts = offsets.tolist()
        if padding:
            starts.append(starts[-1] + padding)
        longest = max(end - start for start, end in pairwise(starts))
        return cls(torch.tensor(starts, dtype=torch.int32, device=offsets.device), max(longest, SHORTEST), starts[-1])

    def arguments(self) -> dict[str, Any]:
        """transformers' FlashAttentionKwargs."""
        return {
            "cu_seq_lens_q": self.offsets,
            "cu_seq_lens_k": self.offsets,
            "max_length_q": self.longest,
            "max_length_k": self.longest,
        }


_now: Packing | None = None


def announce(packing: Packing | None) -> None:
    """What the attention calls from now on are about; None: not a packed micro-batch."""
    global _now
    _now = packing


def install() -> None:
    """Put both wrappers in place, in a process that trains. Safe to call again."""
    from transformers.utils import is_flash_attn_4_available
    from verl.models.transformers import monkey_patch

    if not hasattr(monkey_patch._flash_attention_forward, "__wrapped__"):
        monkey_patch._flash_attention_forward = packed(monkey_patch._flash_attention_forward)
    if is_flash_attn_4_available():
        from flash_attn import cute

        if not hasattr(cute.flash_attn_varlen_func, "__wrapped__"):
            cute.flash_attn_varlen_func = with_integers(cute.flash_attn_varlen_func)


def packed(forward: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """transformers' ``_flash_attention_forward`` that is told the packing. Queries [1, tokens, heads, width], with sequence parallelism
    after the exchange: the tokens of all ranks. Calls without position ids, or that bring their own sequences, are left alone."""

    @functools.wraps(forward)
    def told(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if _now is None or kwargs.get("position_ids") is None or kwargs.get("cu_seq_lens_q") is not None:
            return forward(query, key, value, *args, **kwargs)
        if query.shape[:2] != (1, _now.tokens):
            raise RuntimeError(f"attention over {tuple(query.shape[:2])} tokens in a micro-batch of {_now.tokens}")
        return forward(query, key, value, *args, **{**kwargs, **_now.arguments()})

    return told


def with_integers(varlen: Callable[..., Any]) -> Callable[..., Any]:
    """flash-attn-4's ``flash_attn_varlen_func`` whose lengths are integers of at least `SHORTEST`, whatever it is given."""

    @functools.wraps(varlen)
    def told(*args: Any, max_seqlen_q: Any = None, max_seqlen_k: Any = None, **kwargs: Any) -> Any:
        longest_q = None if max_seqlen_q is None else max(int(max_seqlen_q), SHORTEST)
        longest_k = longest_q if max_seqlen_k is max_seqlen_q else None if max_seqlen_k is None else max(int(max_seqlen_k), SHORTEST)
        return varlen(*args, max_seqlen_q=longest_q, max_seqlen_k=longest_k, **kwargs)

    return told
