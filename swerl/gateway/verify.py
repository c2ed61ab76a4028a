"""Re-score a recording with the policy: are the log-probabilities that training gets those of the tokens it gets?

Every path is run once through the model, whole, in float32. For each trainable token the log-probability of the recording is compared with
the model's. A token that was shifted, rendered again or recorded under other words shows as a large difference; numerics of another engine
show as small ones (CPU, float32: at most 1e-3).

The engine's log-probabilities are of the distribution it sampled from, divided by the temperature; ``raw=True`` is for engines that report
them before the temperature, as a plain vLLM server does unless told otherwise. Recordings sampled with top-p or top-k are compared over the
whole vocabulary, so only raw ones can agree.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from swerl.errors import fail
from swerl.gateway.journal import read_journal
from swerl.gateway.records import read_tree
from swerl.gateway.tree import paths


@dataclass(frozen=True, slots=True)
class Verdict:
    """``worst`` is (path, position in the response, token id, recorded, computed) of the largest difference."""

    paths: int
    tokens: int
    max_difference: float
    mean_difference: float
    worst: tuple[int, int, int, float, float] | None

    def agrees(self, tolerance: float = 1e-3) -> bool:
        return self.tokens > 0 and self.max_difference <= tolerance


def load_rows(file: Path) -> tuple[list[dict[str, Any]], float]:
    """Paths and sampling temperature of a recording: the JSON the admin surface gives, or a session's journal.

    Raises SwerlError SWERL-G010 for anything else.
    """
    try:
        if file.suffix == ".jsonl":
            records = list(read_journal(file))
            rows, sampling = [p.as_dict() for p in paths(read_tree(records))], records[0]["sampling"]
        else:
            recording = orjson.loads(file.read_bytes())
            rows, sampling = recording["paths"], recording["sampling"]
    except (orjson.JSONDecodeError, KeyError, IndexError, TypeError) as error:
        raise fail("SWERL-G010", f"no recording: {error!r}", "give a session's journal or the JSON of its recording", str(file)) from error
    temperature = sampling.get("temperature")
    return rows, 1.0 if temperature is None else float(temperature)


def verify(rows: Sequence[Mapping[str, Any]], model_path: Path, *, temperature: float = 1.0, raw: bool = False) -> Verdict:
    """Needs torch and transformers. ``rows`` as in a recording's ``paths``."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32).eval()
    scale = 1.0 if raw or temperature == 0 else 1 / temperature
    total, count, largest, worst = 0.0, 0, 0.0, None
    for number, row in enumerate(rows):
        whole = torch.tensor([[*row["prompt_ids"], *row["response_ids"]]])
        with torch.no_grad():
            logits = model(whole).logits[0, len(row["prompt_ids"]) - 1 : -1].float() * scale
        scores = torch.log_softmax(logits, -1).gather(1, whole[0, len(row["prompt_ids"]) :, None])[:, 0].tolist()
        for position, recorded, computed in _trainable(row, scores):
            difference = abs(recorded - computed)
            total, count = total + difference, count + 1
            if worst is None or difference > largest:
                largest, worst = difference, (number, position, row["response_ids"][position], recorded, computed)
    return Verdict(len(rows), count, largest, total / count if count else math.nan, worst)


def _trainable(row: Mapping[str, Any], scores: Sequence[float]) -> Iterable[tuple[int, float, float]]:
    for position, mask in enumerate(row["response_mask"]):
        if mask:
            yield position, row["response_logprobs"][position], scores[position]
