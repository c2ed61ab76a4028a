"""Supervised training on demonstrations: a fixed number of steps, so that a slow machine gives the same policy as a fast one.

On a CPU in fp32 and deterministic for a given seed, number of threads and processor kind (floating-point sums depend on the latter two);
on a GPU the products are in bf16, and sums may differ from one build to the next.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from swerl.data.generate import RepairTask
from swerl.policy import demonstrations
from swerl.policy.demonstrations import Example
from swerl.policy.optimizer import optimizers
from swerl.policy.recipe import Recipe
from swerl.policy.tokenizer import encode, prompt_text

CHUNK_BATCHES = 8  # so many batches are drawn at once and sorted by length, which halves the padding
PROGRESS_STEPS = 50
Say = Callable[[str], None]


def train(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    tasks: list[RepairTask],
    recipe: Recipe,
    seed: int,
    say: Say = print,
) -> float:
    """Run the recipe's steps in place; returns the mean loss on policy tokens over the last ``PROGRESS_STEPS`` steps."""
    batches = _batches(tokenizer, tasks, recipe, random.Random(seed))
    chosen = optimizers(model, recipe.muon_lr, recipe.adam_lr)
    base = [[group["lr"] for group in optimizer.param_groups] for optimizer in chosen]
    started, recent = time.monotonic(), []
    model.train()
    for step in range(recipe.steps):
        examples = next(batches)
        scale = recipe.lr_scale(step)
        for optimizer, rates in zip(chosen, base, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * scale
        recent.append(_update(model, chosen, examples, tokenizer.pad_token_id))
        if (step + 1) % PROGRESS_STEPS == 0 or step + 1 == recipe.steps:
            recent = recent[-PROGRESS_STEPS:]
            elapsed = time.monotonic() - started
            phase = "gold" if step < recipe.clean_steps else "mixed"
            left = elapsed / (step + 1) * (recipe.steps - step - 1)
            say(f"  step {step + 1}/{recipe.steps} ({phase})  loss {sum(recent) / len(recent):.3f}  {elapsed:.0f} s, {left:.0f} s left")
    model.eval()
    return sum(recent) / len(recent)


def pad(examples: list[Example], pad_id: int) -> tuple[Tensor, Tensor]:
    """Right-padded ids and weights, [batch, longest]; padding weighs nothing."""
    length = max(len(example.ids) for example in examples)
    ids = torch.full((len(examples), length), pad_id)
    weights = torch.zeros(len(examples), length)
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = torch.tensor(example.ids)
        weights[row, : len(example.weights)] = torch.tensor(example.weights)
    return ids, weights


def _update(model: Qwen3ForCausalLM, chosen: list[torch.optim.Optimizer], examples: list[Example], pad_id: int) -> float:
    ids, weights = (tensor.to(model.device) for tensor in pad(examples, pad_id))
    with torch.autocast(model.device.type, torch.bfloat16, enabled=model.device.type == "cuda"):
        logits = model(input_ids=ids).logits[:, :-1].float()
    losses = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view(len(examples), -1)
    weights = weights[:, 1:]
    model.zero_grad()
    ((losses * weights).sum() / weights.sum()).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in chosen:
        optimizer.step()
    by_policy = weights == 1
    return float((losses.detach() * by_policy).sum() / by_policy.sum())


def _batches(tokenizer: PreTrainedTokenizerFast, tasks: list[RepairTask], recipe: Recipe, rng: random.Random) -> Iterator[list[Example]]:
    """Batches without end, of examples alike in length. The kind of each demonstration follows the phase of the step it is drawn for."""
    frame = prompt_text(tokenizer, "\x00")
    order: list[RepairTask] = []
    drawn = 0
    only_good: Mapping[str, float] = {"good": 1.0}
    while True:
        mix = only_good if drawn < recipe.clean_steps else recipe.mix
        number = min(CHUNK_BATCHES, recipe.clean_steps - drawn) if drawn < recipe.clean_steps else CHUNK_BATCHES
        chunk = []
        for _ in range(recipe.batch_size * number):
            if not order:
                order = rng.sample(tasks, len(tasks))
            task = order.pop()
            trial = demonstrations.turns(task, rng.choice(tasks), demonstrations.draw_kind(rng, mix), rng)
            chunk.append(
                demonstrations.encode_example(
                    lambda text: encode(tokenizer, text), frame.replace("\x00", task.issue), trial, recipe.context_weight
                )
            )
        drawn += number
        chunk.sort(key=lambda example: len(example.ids))
        batches = [chunk[i : i + recipe.batch_size] for i in range(0, len(chunk), recipe.batch_size)]
        rng.shuffle(batches)
        yield from batches
