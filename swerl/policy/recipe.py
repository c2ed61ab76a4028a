"""The numbers of the warm start. They are part of the build's digest: changing one rebuilds the policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True, slots=True)
class Recipe:
    """First ``clean_steps`` on gold demonstrations, then ``mixed_steps`` on ``mix``. Learning rates: warm-up, constant, then linear
    decay."""

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
        return {f.name: dict(self.mix) if f.name == "mix" else getattr(self, f.name) for f in fields(self)}


# The warm start must leave room to learn and be good enough to be rewarded now and then.
WINDOW = (0.1, 0.6)
