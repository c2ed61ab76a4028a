"""Log-probabilities and entropy by chunks of hidden states: the logits of a micro-batch, tokens x vocabulary, are never in memory.

verl's own fused forward reads the head's weight from outside the head, which FSDP2 has sharded where head and embedding are not tied, and
hands on to the model only the arguments it knows. Here the head computes them in its own forward, around which FSDP gathers and frees its
weight. The chunks are verl's (`FusedLinearForPPO`).
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import nn
from verl.models.transformers.dense_common import CausalLMOutputForPPO
from verl.utils.experimental.torch_functional import FusedLinearForPPO

CHUNK_TOKENS = 1024  # one float32 chunk over 152k words is 0.6 GiB


def install(module: nn.Module) -> None:
    """Make ``module``, a causal language model, answer `CausalLMOutputForPPO` where verl's engine asks for a temperature. Asked without
    one it is what it was. Before FSDP wraps it."""
    module.logits_forward = module.forward
    module.lm_head.logits_forward = module.lm_head.forward
    module.lm_head.forward = MethodType(_head, module.lm_head)
    module.forward = MethodType(_forward, module)


def _forward(self: nn.Module, *args: Any, temperature: float | None = None, shift_labels: Any = None, **kwargs: Any) -> Any:
    """Log-probabilities [1, tokens] of the labels [1, tokens] (the next tokens; default: those of the input) and entropy."""
    if temperature is None:
        return self.logits_forward(*args, **kwargs)
    labels = torch.roll(kwargs["input_ids"], shifts=-1, dims=-1) if shift_labels is None else shift_labels
    kwargs.pop("return_dict", None)
    hidden = self.base_model(*args, **kwargs)[0]
    log_probs, entropy = self.lm_head(hidden, labels=labels, temperature=temperature)
    return CausalLMOutputForPPO(log_probs=log_probs, entropy=entropy)


def _head(self: nn.Module, hidden: torch.Tensor, labels: torch.Tensor | None = None, temperature: float = 1.0) -> Any:
    if labels is None:
        return self.logits_forward(hidden)
    return FusedLinearForPPO(chunk_size=CHUNK_TOKENS)(hidden, self.weight, labels, temperature)


@torch.no_grad()
def differ_by(module: nn.Module, ids: torch.Tensor) -> float:
    """The largest difference between log-probabilities by chunks and from the model's own logits over ``ids`` [1, tokens]: what a model
    does to its logits (a cap, a scale) that the chunks do not know is seen here."""
    asked = {"input_ids": ids, "position_ids": torch.arange(ids.shape[1], device=ids.device).unsqueeze(0), "use_cache": False}
    chunked = module(**asked, temperature=1.0).log_probs
    plain = module(**asked).logits.float().log_softmax(-1).gather(-1, ids.roll(-1, -1).unsqueeze(-1)).squeeze(-1)
    return float((chunked - plain).abs().max())
