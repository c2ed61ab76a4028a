"""The numbers of a policy and its warm start, by name. They are part of the build's digest: changing one rebuilds the policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True, slots=True)
class Shape:
    """The network: Qwen3's architecture in these sizes. ``vocabulary`` counts the tokenizer's entries, special ones included;
    ``numbered_lines`` is the last line number whose ``cat -n`` prefix the tokenizer learns as one token."""

    hidden_size: int = 128
    intermediate_size: int = 256
    layers: int = 3
    heads: int = 4
    kv_heads: int = 4
    head_dim: int = 32
    positions: int = 1024
    vocabulary: int = 768
    numbered_lines: int = 19


SMALL = Shape()


@dataclass(frozen=True, slots=True)
class Recipe:
    """First ``clean_steps`` on gold demonstrations, then ``mixed_steps`` on ``mix``. Learning rates: warm-up, constant, then linear
    decay."""

    shape: Shape = SMALL
    task_size: str = "small"
    clean_steps: int = 600
    mixed_steps: int = 170
    mix: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({"good": 0.32, "blind": 0.25, "misfix": 0.35, "quit": 0.08}))
    batch_size: int = 16
    muon_lr: float = 0.02
    adam_lr: float = 5e-3
    context_weight: float = 0.1
    warmup_steps: int = 100
    decay_from: float = 0.6
    decay_to: float = 0.05
    tokenizer_tasks: int = 3000
    demo_tasks: int = 12500

    @property
    def steps(self) -> int:
        return self.clean_steps + self.mixed_steps

    def lr_scale(self, step: int) -> float:
        """Factor on both learning rates at ``step`` (0-based)."""
        done = step / self.steps
        decay = 1.0 if done < self.decay_from else max(self.decay_to, (1 - done) / (1 - self.decay_from))
        return min(1.0, (step + 1) / self.warmup_steps) * decay

    def as_dict(self) -> dict[str, Any]:
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        return {**plain, "mix": dict(self.mix), "shape": asdict(self.shape)}

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Recipe:
        """The recipe that ``as_dict`` wrote."""
        return cls(**{**values, "shape": Shape(**values["shape"])})


# ``demo`` is built on two cores in minutes; ``large`` on one GPU, for larger repositories.
RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "demo": Recipe(),
        "large": Recipe(
            shape=Shape(
                hidden_size=512,
                intermediate_size=1536,
                layers=8,
                heads=8,
                kv_heads=4,
                head_dim=64,
                positions=2048,
                vocabulary=1024,
                numbered_lines=60,
            ),
            task_size="large",
            clean_steps=500,
            mixed_steps=150,
            batch_size=64,
            adam_lr=3e-3,
            demo_tasks=12500,
        ),
    }
)


# The warm start must leave room to learn and be good enough to be rewarded now and then.
WINDOW = (0.1, 0.6)
