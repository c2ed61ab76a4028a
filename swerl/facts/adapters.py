"""How many parameters low-rank adapters have, from the policy's shape: ``rank * (in + out)`` for every linear layer that gets one.

Exact for the families of `shape` (proved against PEFT in tests/forecast/test_adapters.py). Of a mixture the attention's layers are counted:
preflight refuses adapters on experts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from swerl.facts.shape import ModelShape

ALL = "all-linear"


def linear_layers(shape: ModelShape) -> Mapping[str, tuple[int, int, int]]:
    """Last name of a layer -> inputs, outputs, how many there are."""
    q, kv, hidden = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim, shape.hidden
    attention = {"q_proj": (hidden, q), "k_proj": (hidden, kv), "v_proj": (hidden, kv), "o_proj": (q, hidden)}
    width = shape.mlp_width
    mlp = {} if shape.is_moe else {"gate_proj": (hidden, width), "up_proj": (hidden, width), "down_proj": (width, hidden)}
    counted = [(attention, shape.attention_layers), (mlp, shape.layers)]
    return {name: (*sides, count) for layers, count in counted for name, sides in layers.items()}


def adapter_parameters(shape: ModelShape, rank: int, targets: Sequence[str], exclude: Sequence[str] = ()) -> int:
    """Of all adapters together. A target counts by its last name: `self_attn.q_proj` is `q_proj`."""
    chosen, left_out = ({name.rpartition(".")[2] for name in names} for names in (targets, exclude))
    return sum(
        rank * (inputs + outputs) * count
        for name, (inputs, outputs, count) in linear_layers(shape).items()
        if (ALL in targets or name in chosen) and name not in left_out
    )
