"""From what the gateway recorded and what the verifier said to the rows that are trained on. Pure: no verl, no I/O.

A recording holds the paths of one session, the main path last (``swerl.gateway``). A row is one path cut to the configured lengths. The
loss and the advantage follow verl: the advantage of a session is read at the first trainable token of its last row, so the last row is
the main path and always has one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class RowLimits:
    """Token counts of ``training.max_prompt_length`` and ``training.max_response_length``, and what to do with what does not fit."""

    max_prompt: int
    max_response: int
    overlong: Literal["keep", "drop"] = "keep"
    paths: Literal["main", "all"] = "main"


@dataclass(frozen=True, slots=True)
class Row:
    """One path of one session. All four response lists have the same length; ``mask`` is 1 where the policy's token is trained."""

    prompt_ids: list[int]
    response_ids: list[int]
    mask: list[int]
    logprobs: list[float]
    versions: list[int]
    turns: int

    @property
    def first_version(self) -> int:
        return min(v for v, m in zip(self.versions, self.mask, strict=True) if m)

    @property
    def last_version(self) -> int:
        return max(v for v, m in zip(self.versions, self.mask, strict=True) if m)


def rows_of(recording: Mapping[str, Any], limits: RowLimits) -> list[Row]:
    """Rows of a session, main path last; empty when the session has nothing to train (it is then absent from the group).

    Raises AssertionError when the recording breaks the gateway's contract: lengths that differ, a trainable token without a version.
    """
    paths: Sequence[Mapping[str, Any]] = recording["paths"]
    chosen = paths if limits.paths == "all" else paths[-1:]
    rows = [row for path in chosen if (row := _row(path, limits)) is not None]
    if not rows or not paths[-1]["main"]:
        return []
    main = _row(paths[-1], limits)
    return rows if main is not None else []


def _row(path: Mapping[str, Any], limits: RowLimits) -> Row | None:
    prompt, response = list(path["prompt_ids"]), list(path["response_ids"])
    mask, logprobs, versions = list(path["response_mask"]), list(path["response_logprobs"]), list(path["versions"])
    assert len(response) == len(mask) == len(logprobs) == len(versions), "a recording's response lists differ in length"
    assert all(v >= 0 for v, m in zip(versions, mask, strict=True) if m), "a trainable token has no version of the weights"
    too_long = len(prompt) > limits.max_prompt or len(response) > limits.max_response
    if too_long and (limits.overlong == "drop" or len(prompt) > limits.max_prompt):
        return None  # a prompt cannot be cut: the response would then follow tokens the policy never saw
    cut = slice(0, limits.max_response)
    if not any(mask[cut]):
        return None
    return Row(prompt, response[cut], mask[cut], logprobs[cut], versions[cut], path["turns"])
