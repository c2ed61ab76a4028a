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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from swerl.errors import fail
from swerl.gateway.records import read_tree
from swerl.gateway.tree import paths
from swerl.record.session_journal import read_journal


@dataclass(frozen=True, slots=True)
class Verdict:
    """``worst`` is (path, position in the response, token id, recorded, computed) of the largest difference."""

    paths: int
    tokens: int  # compared
    max_difference: float
    mean_difference: float
    worst: tuple[int, int, int, float, float] | None

    def agrees(self, tolerance: float = 1e-3) -> bool:
        return self.tokens > 0 and self.max_difference <= tolerance


@dataclass(frozen=True, slots=True)
class Recording:
    """``rows`` as in a recording's ``paths``; ``trial`` is the identity its session was opened for."""

    rows: list[dict[str, Any]]
    temperature: float
    trial: Mapping[str, Any]


def load_recording(file: Path) -> Recording:
    """The JSON the admin surface gives, or a session's journal. Raises SwerlError SWERL-G010 for anything else."""
    try:
        if file.suffix == ".jsonl":
            records = list(read_journal(file))
            rows, head = [p.as_dict() for p in paths(read_tree(records))], records[0]
        else:
            head = orjson.loads(file.read_bytes())
            rows = head["paths"]
        temperature, trial = head["sampling"].get("temperature"), head["trial"]
    except (orjson.JSONDecodeError, KeyError, IndexError, TypeError) as error:
        raise fail("SWERL-G010", f"no recording: {error!r}", "give a session's journal or the JSON of its recording", str(file)) from error
    return Recording(rows, 1.0 if temperature is None else float(temperature), trial)


Score = Callable[[Mapping[str, Any], float], list[float]]


def scorer(model_path: Path) -> Score:
    """The policy as a function of a row and a factor for its logits: one log-probability per token of the response. Needs torch and
    transformers."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32).eval()

    def score(row: Mapping[str, Any], scale: float) -> list[float]:
        whole = torch.tensor([[*row["prompt_ids"], *row["response_ids"]]])
        with torch.no_grad():
            logits = model(whole).logits[0, len(row["prompt_ids"]) - 1 : -1].float() * scale
        return torch.log_softmax(logits, -1).gather(1, whole[0, len(row["prompt_ids"]) :, None])[:, 0].tolist()

    return score


def verify(
    rows: Sequence[Mapping[str, Any]], score: Score, *, temperature: float = 1.0, raw: bool = False, version: int | None = None
) -> Verdict:
    """``rows`` as in a recording's ``paths``. With ``version``, tokens that other weights sampled are passed over."""
    scale = 1.0 if raw or temperature == 0 else 1 / temperature
    total, count, largest, worst = 0.0, 0, 0.0, None
    for number, row in enumerate(rows):
        wanted = [mask and version in (None, of) for mask, of in zip(row["response_mask"], row["versions"], strict=True)]
        if not any(wanted):
            continue
        for position, recorded, computed in _chosen(row, wanted, score(row, scale)):
            difference = abs(recorded - computed)
            total, count = total + difference, count + 1
            if worst is None or difference > largest:
                largest, worst = difference, (number, position, row["response_ids"][position], recorded, computed)
    return Verdict(len(rows), count, largest, total / count if count else math.nan, worst)


def _chosen(row: Mapping[str, Any], wanted: Sequence[bool], scores: Sequence[float]) -> Iterable[tuple[int, float, float]]:
    for position, one in enumerate(wanted):
        if one:
            yield position, row["response_logprobs"][position], scores[position]


def combined(verdicts: Sequence[Verdict]) -> Verdict:
    """One verdict on several recordings; the worst token is that of the worst recording."""
    compared = [v for v in verdicts if v.tokens]
    tokens = sum(v.tokens for v in compared)
    mean = sum(v.mean_difference * v.tokens for v in compared) / tokens if tokens else math.nan
    largest = max(compared, key=lambda v: v.max_difference, default=None)
    paths_ = sum(v.paths for v in verdicts)
    return Verdict(paths_, tokens, largest.max_difference if largest else 0.0, mean, largest.worst if largest else None)
