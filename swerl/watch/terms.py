"""What rules hold a run against: the thresholds of ``config.watch`` and the facts about this run that make them apply or not."""

from __future__ import annotations

from dataclasses import dataclass

from swerl.config import RunConfig
from swerl.config.sections import Watch


@dataclass(frozen=True, slots=True)
class Terms:
    """``replicas`` is the number of engines the configuration asks for; ``total_steps`` is None where it depends on data that cannot be
    read; ``checkpoint_bytes`` is what one save needs, None where the policy's shape is not known."""

    watch: Watch
    replicas: int
    total_steps: int | None
    warmup_steps: int
    max_turns: int
    asynchronous: bool
    checkpoint_bytes: int | None

    @classmethod
    def of(cls, config: RunConfig, *, total_steps: int | None, checkpoint_bytes: int | None) -> Terms:
        machines = config.infrastructure
        return cls(
            watch=config.watch,
            replicas=max(1, machines.nnodes * machines.ngpus_per_node // config.vllm.gen_tp),
            total_steps=total_steps,
            warmup_steps=config.algorithm.lr_warmup_steps,
            max_turns=config.harbor_agent.max_iterations,
            asynchronous=config.training.mode != "sync",
            checkpoint_bytes=checkpoint_bytes,
        )
