"""Which tasks teach: those that the policy solves sometimes. Keeps a difficulty band from k attempts at each task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from swerl.data.index import Entry
from swerl.errors import fail


@dataclass(frozen=True, slots=True)
class Band:
    """Keeps tasks whose share of solved attempts lies strictly above ``above`` and strictly below ``below``."""

    above: float = 0.0
    below: float = 1.0
    min_attempts: int = 2

    def __post_init__(self) -> None:
        if not (0 <= self.above < self.below <= 1 and self.min_attempts >= 1):
            raise fail("SWERL-D011", f"no task can lie between {self.above} and {self.below}", "give 0 <= above < below <= 1")


@dataclass(frozen=True, slots=True)
class Sifted:
    kept: tuple[Entry, ...]
    too_hard: tuple[Entry, ...]
    too_easy: tuple[Entry, ...]
    unknown: tuple[Entry, ...]


def sift(entries: Sequence[Entry], rewards: Mapping[str, Sequence[float | None]], band: Band, solved_at: float = 1.0) -> Sifted:
    """``rewards``: task hash -> one reward per attempt, None where it was not graded (it counts as no attempt).

    A task with fewer than ``band.min_attempts`` graded attempts is unknown, and not kept: ungraded is not failed.
    """
    sides: dict[str, list[Entry]] = {"kept": [], "too_hard": [], "too_easy": [], "unknown": []}
    for entry in entries:
        graded = [reward for reward in rewards.get(entry.task_hash, ()) if reward is not None]
        share = sum(reward >= solved_at for reward in graded) / max(1, len(graded))
        if len(graded) < band.min_attempts:
            side = "unknown"
        elif share <= band.above:
            side = "too_hard"
        else:
            side = "too_easy" if share >= band.below else "kept"
        sides[side].append(entry)
    return Sifted(**{name: tuple(found) for name, found in sides.items()})
