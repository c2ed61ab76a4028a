"""Demonstrations: whole trials as text, of five kinds, from gold to useless.

good      reads the file, makes the gold edit, says done
misfix    reads the file, edits the right line into something else that is wrong (where the task has no such text: another task's edit)
wrong     reads the file, makes another task's edit
blind     makes another task's edit without reading
quit      reads the file and says done
A mix gives each kind's share. Only ``good`` teaches repair; the others give the warm start the habits that reinforcement learning then
removes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from swerl.data.generate import RepairTask
from swerl.policy import protocol

KINDS = ("good", "misfix", "wrong", "blind", "quit")
Encode = Callable[[str], list[int]]


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids of prompt and trial, and each token's weight in the loss."""

    ids: list[int]
    weights: list[float]


def turns(task: RepairTask, other: RepairTask, kind: str, rng: random.Random) -> list[tuple[str, bool]]:
    """(text, written by the policy) after the prompt."""
    read = [
        (protocol.call_text(f"cat -n {task.file}") + protocol.END, True),
        (protocol.observation_text(protocol.numbered(task.code)), False),
    ]
    end = [(protocol.DONE + protocol.END, True)]
    if kind == "quit":
        return read + end
    edit = task.edit
    if kind in ("wrong", "blind") or (kind == "misfix" and not task.near_misses):
        edit = other.edit
    elif kind == "misfix":
        edit = rng.choice(task.near_misses)
    edited = [(protocol.call_text(edit.command(task.file)) + protocol.END, True), (protocol.observation_text(""), False)]
    return (edited if kind == "blind" else read + edited) + end


def draw_kind(rng: random.Random, mix: Mapping[str, float]) -> str:
    return rng.choices(list(mix), list(mix.values()))[0]


def encode_example(encode: Encode, prompt: str, trial: list[tuple[str, bool]], context_weight: float) -> Example:
    """Tokens the policy writes weigh 1, all others ``context_weight`` (which teaches copying)."""
    ids = encode(prompt)
    weights = [context_weight] * len(ids)
    for text, by_policy in trial:
        piece = encode(text)
        ids += piece
        weights += [1.0 if by_policy else context_weight] * len(piece)
    return Example(ids, weights)
