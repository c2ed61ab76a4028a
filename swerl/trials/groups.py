"""Counts what a step's groups are worth: a group whose graded rewards are all equal moves nothing (its advantages are zero).

Only counted here; replacing such groups is ``algorithm.filter_groups.enable``, which verl carries out.
"""

from __future__ import annotations

from collections import Counter, defaultdict

from swerl.record.events import EventLog
from swerl.record.model import TrialResult

KEPT_STEPS = 8


class Groups:
    """``settled`` once per trial of the split train. A group is complete when ``size`` of its trials have settled; it then becomes one
    event, and its step's count. ``counts`` are of this process: groups, those of zero variance, those with fewer than two graded."""

    def __init__(self, size: int, events: EventLog):
        self._size, self._events = size, events
        self._open: dict[tuple[int, str, str], list[TrialResult]] = defaultdict(list)
        self.counts: Counter[str] = Counter()

    def settled(self, step: int, result: TrialResult) -> None:
        key = (step, result.identity.version, result.identity.task_hash)
        self._open[key].append(result)
        if len(self._open[key]) == self._size:
            self._close(step, self._open.pop(key))
        for old in [key for key in self._open if key[0] < step - KEPT_STEPS]:  # groups that were cut short
            del self._open[old]

    def _close(self, step: int, results: list[TrialResult]) -> None:
        rewards = [result.reward for result in results if result.in_loss and result.reward is not None]
        flat = len(rewards) >= 2 and len(set(rewards)) == 1
        self.counts.update(groups=1, zero_variance=flat, too_few=len(rewards) < 2)
        self._events.emit(
            "group.settled",
            step=step,
            task=results[0].info.get("task_id"),
            in_loss=len(rewards),
            of=len(results),
            mean=sum(rewards) / len(rewards) if rewards else None,
            zero_variance=flat,
        )
