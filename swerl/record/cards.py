"""How ``nvidia-smi`` is asked: about the cards that this process, and so its run, may use.

``CUDA_VISIBLE_DEVICES`` divides a host's cards between runs. CUDA, Ray and vLLM heed it; ``nvidia-smi`` does not and would report the
neighbours' cards too, so it is told the same list. Numbers count in the bus order of ``nvidia-smi`` on a host of equal cards; names of
cards (``GPU-...``) are exact everywhere.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence


def visible(env: Mapping[str, str] = os.environ) -> str | None:
    """What ``CUDA_VISIBLE_DEVICES`` says, without spaces; None where all cards are the run's. Empty: none is."""
    said = env.get("CUDA_VISIBLE_DEVICES")
    return None if said is None else "".join(said.split())


def nvidia_smi(query: Sequence[str], env: Mapping[str, str] = os.environ) -> list[str]:
    """The command that asks ``query`` (``--query-gpu=...`` and its like) about the visible cards. Where ``CUDA_VISIBLE_DEVICES`` is set and
    empty there is nothing to ask: callers look at `visible` first, or take the error that ``nvidia-smi`` gives for no card."""
    cards = visible(env)
    return ["nvidia-smi", *query, *([] if cards is None else [f"--id={cards or 'none'}"])]
