"""A stand-in for the real trainer: GRPO with the GSPO ratio on emulated trials. For choosing a recipe in minutes; no result page rests on
it.

It follows the demo profile: groups normalised by their deviation, two updates a step, sequence-mean token-mean loss, clip 0.2, no KL
term, AdamW.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from swerl.data.generate import RepairTask
from swerl.policy.demonstrations import Example
from swerl.policy.emulate import Trial, run_trials
from swerl.policy.measure import measure
from swerl.policy.warmstart import Say, pad


@dataclass(frozen=True, slots=True)
class Reinforce:
    steps: int = 16
    prompts: int = 8
    samples: int = 8
    updates: int = 2
    lr: float = 2e-4
    clip: float = 0.2
    measure_every: int = 4


def reinforce(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    train: list[RepairTask],
    val: list[RepairTask],
    options: Reinforce,
    seed: int,
    say: Say = print,
) -> list[dict[str, float]]:
    """Train in place; returns the val rates at step 0 and every ``measure_every`` steps."""
    generator = torch.Generator(device=model.device).manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr)
    curve = [{"step": 0, **measure(model, tokenizer, val).as_dict()}]
    say(str(curve[-1]))
    for step in range(options.steps):
        started = time.monotonic()
        tasks = [train[(step * options.prompts + i) % len(train)] for i in range(options.prompts)]
        trials = run_trials(model, tokenizer, [task for task in tasks for _ in range(options.samples)], generator)
        rewards = torch.tensor([trial.reward for trial in trials]).view(-1, options.samples)
        deviation = rewards.std(1, keepdim=True)
        advantages = ((rewards - rewards.mean(1, keepdim=True)) / (deviation + 1e-6)).flatten().to(model.device)
        with torch.no_grad():
            old, mask = _log_probs(model, trials, tokenizer.pad_token_id)
        for chosen in torch.arange(len(trials)).chunk(options.updates):
            new, _ = _log_probs(model, [trials[i] for i in chosen], tokenizer.pad_token_id, old.shape[1] + 1)
            loss = gspo_loss(new, old[chosen], mask[chosen], advantages[chosen], options.clip)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        flat = float((deviation == 0).float().mean())
        say(f"  step {step + 1}: reward {float(rewards.mean()):.3f}, constant groups {flat:.2f}, {time.monotonic() - started:.1f} s")
        if (step + 1) % options.measure_every == 0:
            curve.append({"step": step + 1, **measure(model, tokenizer, val, seed=step + 1).as_dict()})
            say(str(curve[-1]))
    return curve


def gspo_loss(new: Tensor, old: Tensor, mask: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """GSPO (arXiv:2507.18071): the ratio is the sequence's geometric mean; its gradient is spread over the sequence's tokens. All [batch,
    tokens]."""
    lengths = mask.sum(1)
    sequence = ((new - old) * mask).sum(1) / lengths
    ratio = torch.exp(sequence.detach()[:, None] + new - new.detach())
    gain = torch.min(ratio * advantages[:, None], ratio.clamp(1 - clip, 1 + clip) * advantages[:, None])
    return -((gain * mask).sum(1) / lengths).mean()


def _log_probs(model: Qwen3ForCausalLM, trials: list[Trial], pad_id: int, length: int = 0) -> tuple[Tensor, Tensor]:
    """Log-probabilities of all tokens but the first, and which of them the policy wrote; [trials, longest - 1] (or ``length`` - 1)."""
    ids, mask = (t.to(model.device) for t in pad([Example(t.ids, [float(s) for s in t.sampled]) for t in trials], pad_id))
    if length > ids.shape[1]:
        ids = F.pad(ids, (0, length - ids.shape[1]), value=pad_id)
        mask = F.pad(mask, (0, length - mask.shape[1]))
    logits = model(input_ids=ids).logits[:, :-1]
    losses = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view(len(trials), -1)
    return -losses, mask[:, 1:]
