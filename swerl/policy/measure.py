"""Rates of a policy on held-out tasks, from emulated trials."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import comb
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from swerl.data.generate import RepairTask
from swerl.policy.emulate import Trial, run_trials

BATCH_TRIALS = 256


@dataclass(frozen=True, slots=True)
class Rates:
    """``ok_given_edit``: among trials that read first and then edited, the share whose tests pass (repair skill, apart from habits)."""

    pass_at_1: float
    pass_at_4: float
    pass_at_8: float
    read_first: float
    ok_given_edit: float
    malformed: float
    trials: int

    def as_dict(self) -> dict[str, Any]:
        return {name: round(value, 4) for name, value in asdict(self).items()}


def measure(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    tasks: list[RepairTask],
    samples: int = 8,
    seed: int = 0,
    temperature: float = 1.0,
    instruction: Callable[[RepairTask], str] = lambda task: task.issue,
) -> Rates:
    """``samples`` trials of each task."""
    generator = torch.Generator(device=model.device).manual_seed(seed)
    copies = [task for task in tasks for _ in range(samples)]
    trials: list[Trial] = []
    for start in range(0, len(copies), BATCH_TRIALS):
        trials += run_trials(model, tokenizer, copies[start : start + BATCH_TRIALS], generator, temperature, instruction)
    return rates(trials, samples)


def rates(trials: Sequence[Trial], samples: int) -> Rates:
    """Rates of trials that stand in groups of ``samples`` per task; pass@k for k above ``samples`` is that for k = ``samples``."""
    passed = [sum(t.reward == 1.0 for t in trials[i : i + samples]) for i in range(0, len(trials), samples)]
    edits = [t for t in trials if t.read_first and t.edited]
    return Rates(
        pass_at_1=sum(t.reward for t in trials) / len(trials),
        pass_at_4=sum(pass_at(samples, c, 4) for c in passed) / len(passed),
        pass_at_8=sum(pass_at(samples, c, 8) for c in passed) / len(passed),
        read_first=sum(t.read_first for t in trials) / len(trials),
        ok_given_edit=sum(t.reward for t in edits) / max(1, len(edits)),
        malformed=sum(t.malformed for t in trials) / len(trials),
        trials=len(trials),
    )


def pass_at(samples: int, correct: int, k: int) -> float:
    """Unbiased estimate of the chance that one of ``k`` samples is right (Chen et al., arXiv:2107.03374)."""
    k = min(k, samples)
    return 1.0 - comb(samples - correct, k) / comb(samples, k)
