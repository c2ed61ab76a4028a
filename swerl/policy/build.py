"""Build, continue and measure the demo policy.

``build`` leaves a directory with weights, tokenizer and ``model_card.json``, or raises SWERL-M001 when the new policy falls outside the
window and leaves what was there. A directory whose card names the same digest (recipe, seed, threads, code) and whose weights are intact
is not built again.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import json
import platform
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from swerl.data import generate
from swerl.data.generate import RepairTask, make_tasks, repair
from swerl.errors import fail
from swerl.policy import measure as measuring
from swerl.policy import model as models
from swerl.policy import tokenizer as tokenizers
from swerl.policy import warmstart
from swerl.policy.recipe import WINDOW, Recipe
from swerl.policy.warmstart import Say

CARD = "model_card.json"
WEIGHTS = "model.safetensors"
# What decides the weights; the modules that only measure may change without a rebuild.
SOURCES = ("protocol", "tokenizer", "model", "demonstrations", "optimizer", "warmstart", "recipe")
CONTINUE_LR = 0.3  # of the recipe's peak: about where the recipe's own decay leaves off
SAMPLES = 8
INSTRUCTIONS: dict[str, Callable[[RepairTask], str]] = {
    "full": lambda task: task.issue,
    "file": lambda task: f"Something is wrong in {task.file}.",
    "none": lambda task: "Something is wrong.",
}


def build(out: Path, seed: int, threads: int, recipe: Recipe | None = None, say: Say = print) -> dict[str, Any]:
    """Returns the card; ``card["built"]`` is false when ``out`` already held this build."""
    recipe = recipe or Recipe()
    digest = build_digest(recipe, seed, threads)
    if (card := read_card(out)) is not None and card["digest"] == digest and card["weights_sha256"] == _sha256(out / WEIGHTS):
        say(f"the demo policy in {out} is up to date")
        return {**card, "built": False}
    torch.set_num_threads(threads)
    started = time.monotonic()
    say(f"making {recipe.demo_tasks} demonstration tasks and the tokenizer")
    tokenizer = tokenizers.build(make_tasks(repair.TOKENIZER_SEED, recipe.tokenizer_tasks, "train", recipe.task_size), recipe.shape)
    demonstrations = make_tasks(repair.DEMONSTRATION_SEED, recipe.demo_tasks, "train", recipe.task_size)
    model = models.new_model(tokenizer, seed, recipe.shape).to(device())
    where = f"{threads} threads" if model.device.type == "cpu" else torch.cuda.get_device_name()
    say(f"training {sum(p.numel() for p in model.parameters())} parameters for {recipe.steps} steps on {where}")
    before = time.monotonic()
    loss = warmstart.train(model, tokenizer, demonstrations, recipe, seed, say)
    train_s = time.monotonic() - before
    card = {
        "digest": digest,
        "seed": seed,
        "threads": threads,
        "device": model.device.type,
        "recipe": recipe.as_dict(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "made_by": "supervised steps on generated demonstrations: gold ones first, then a mix that is sloppy on purpose",
        "policy_loss": round(loss, 4),
        "train_s": round(train_s, 1),
        **_measured(model, tokenizer, recipe.task_size, say),
    }
    rate = card["val"]["pass_at_1"]
    if not WINDOW[0] <= rate <= WINDOW[1]:
        raise fail(
            "SWERL-M001",
            f"the warm start solves {rate:.3f} of the held-out trials, outside {WINDOW[0]} to {WINDOW[1]}",
            "build with another --seed, or with more steps in swerl/policy/recipe.py",
            str(out),
        )
    return _place(model, tokenizer, out, {**card, "wall_s": round(time.monotonic() - started, 1)})


def continue_training(
    source: Path, out: Path, steps: int | None, seconds: float | None, gold: bool, threads: int, say: Say = print
) -> dict[str, Any]:
    """The supervised control: further steps from ``source`` on the same mix (or on gold demonstrations), on tasks drawn with another seed.

    ``seconds`` is turned into steps by the speed that the source's card recorded.
    """
    card = read_card(source)
    if card is None:
        raise fail("SWERL-M002", f"{source} holds no {CARD}", "build the policy first: python -m swerl.policy --out DIR", str(source))
    first = Recipe.of(card["recipe"])
    number = steps if steps is not None else max(1, round((seconds or card["train_s"]) * first.steps / card["train_s"]))
    torch.set_num_threads(threads)
    tokenizer, model = transformers.AutoTokenizer.from_pretrained(source), models.load_model(source).to(device())
    mix = {"good": 1.0} if gold else first.mix
    rates = {"muon_lr": first.muon_lr * CONTINUE_LR, "adam_lr": first.adam_lr * CONTINUE_LR}
    recipe = dataclasses.replace(first, clean_steps=0, mixed_steps=number, mix=mix, warmup_steps=min(20, number), **rates)
    tasks = make_tasks(repair.DEMONSTRATION_SEED + 1, min(recipe.demo_tasks, number * recipe.batch_size), "train", recipe.task_size)
    say(f"continuing {source} for {number} supervised steps")
    before = time.monotonic()
    loss = warmstart.train(model, tokenizer, tasks, recipe, card["seed"] + 1, say)
    result = {
        "digest": build_digest(recipe, card["seed"] + 1, threads),
        "continues": card["digest"],
        "seed": card["seed"] + 1,
        "threads": threads,
        "recipe": recipe.as_dict(),
        "policy_loss": round(loss, 4),
        "train_s": round(time.monotonic() - before, 1),
        **_measured(model, tokenizer, recipe.task_size, say),
    }
    return _place(model, tokenizer, out, result)


def measure_policy(source: Path, instruction: str, threads: int, seed: int = 0, size: str = "small") -> dict[str, Any]:
    """Rates on the held-out tasks. ``instruction`` "none" withholds the issue text, "file" all of it but the file's name: the blind
    controls."""
    torch.set_num_threads(threads)
    tokenizer, model = transformers.AutoTokenizer.from_pretrained(source), models.load_model(source).to(device())
    tasks = make_tasks(repair.VAL_SEED, repair.NUM_VAL, "val", size)
    found = measuring.measure(model, tokenizer, tasks, SAMPLES, seed, instruction=INSTRUCTIONS[instruction])
    return {"policy": str(source), "instruction": instruction, **found.as_dict()}


def device() -> torch.device:
    """Where policies are built: the GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def build_digest(recipe: Recipe, seed: int, threads: int) -> str:
    """Hash of all that decides the weights on one kind of machine."""
    digest = hashlib.sha256(
        json.dumps([recipe.as_dict(), seed, threads, device().type, torch.__version__, transformers.__version__], sort_keys=True).encode()
    )
    for path in [Path(__file__).with_name(f"{name}.py") for name in SOURCES] + sorted(Path(generate.__file__).parent.glob("*.py")):
        if path.stem in ("families", "repair", *SOURCES):
            # The syntax tree, so that a comment or a line break rebuilds nothing.
            digest.update(ast.dump(ast.parse(path.read_bytes())).encode())
    return digest.hexdigest()


def read_card(directory: Path) -> dict[str, Any] | None:
    """The card beside the weights, or None where either is missing."""
    if not (directory / CARD).is_file() or not (directory / WEIGHTS).is_file():
        return None
    return json.loads((directory / CARD).read_text())


def _measured(model: Any, tokenizer: Any, size: str, say: Say) -> dict[str, Any]:
    tasks = make_tasks(repair.VAL_SEED, repair.NUM_VAL, "val", size)
    sampled = measuring.measure(model, tokenizer, tasks, SAMPLES).as_dict()
    greedy = measuring.measure(model, tokenizer, tasks, 1, temperature=0).as_dict()["pass_at_1"]
    say(f"held-out tasks at temperature 1: {sampled}; likeliest token always: pass@1 {greedy}")
    return {"val": sampled, "val_greedy": greedy, "val_tasks": len(tasks), "val_samples": SAMPLES}


def _place(model: Any, tokenizer: Any, out: Path, card: dict[str, Any]) -> dict[str, Any]:
    """Write everything beside ``out``, then put it in ``out``'s place: a build cut short leaves no half policy."""
    fresh, old = out.with_name(out.name + ".new"), out.with_name(out.name + ".old")
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir(parents=True)
    models.save(model, tokenizer, fresh)
    versions = {"python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__}
    card = {**card, "weights_sha256": _sha256(fresh / WEIGHTS), "versions": versions}
    (fresh / CARD).write_text(json.dumps(card, indent=2) + "\n")
    if out.exists():
        out.rename(old)
    fresh.rename(out)
    shutil.rmtree(old, ignore_errors=True)
    return {**card, "built": True}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
