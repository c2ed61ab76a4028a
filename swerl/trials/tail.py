"""The tail-killer: when most of a step is done, the slowest trials stop holding up the rest, without harming their groups.

Rule: once ``target`` of a step's trials are done, wait ``grace_s``, then end what still runs in groups that are decided (at least two
graded trials whose rewards differ); after another ``grace_s`` end the rest. A group always keeps the chance of two graded trials: if fewer
than two are graded, that many of its running trials are left alone, those first that have run longest. Steps under ``min_trials`` are not
touched. `victims` is pure; `TailKiller` keeps the books of a step and the timer.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from swerl.record.events import EventLog
from swerl.record.model import TrialResult
from swerl.record.outcomes import Outcome
from swerl.trials.settings import Tail

GROUP_MINIMUM = 2


@dataclass(frozen=True, slots=True)
class Group:
    """One prompt of a step: the rewards of its graded trials, and its unfinished trials with the seconds they have run (0 queued)."""

    rewards: tuple[float, ...]
    running: Mapping[str, float]

    @property
    def decided(self) -> bool:
        return len(self.rewards) >= GROUP_MINIMUM and len(set(self.rewards)) > 1


def victims(groups: Sequence[Group], everything: bool) -> list[str]:
    """Keys of the trials to end. ``everything``: not only those of decided groups. No group is left without its chance of two graded."""
    chosen = []
    for group in groups:
        if not (everything or group.decided):
            continue
        spared = max(0, GROUP_MINIMUM - len(group.rewards))
        longest_first = sorted(group.running, key=lambda key: (-group.running[key], key))
        chosen += longest_first[spared:]
    return chosen


@dataclass(slots=True)
class _Step:
    started: dict[str, float] = field(default_factory=dict)  # unfinished: key -> when it began to run, 0.0 while queued
    group_of: dict[str, str] = field(default_factory=dict)
    rewards: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    ended: set[str] = field(default_factory=set)
    done: int = 0
    lasted: list[float] = field(default_factory=list)  # seconds that trials of this step took which ended by themselves
    timer: asyncio.Task[None] | None = None

    def groups(self, now: float) -> list[Group]:
        running: dict[str, dict[str, float]] = defaultdict(dict)
        for key, since in self.started.items():
            if key in self.ended:  # on its way out
                continue
            running[self.group_of[key]][key] = now - since if since else 0.0
        return [Group(tuple(self.rewards[name]), keys) for name, keys in running.items()]


def expected_rest_s(ran_s: float, lasted: Sequence[float]) -> float | None:
    """How much longer a trial that has run ``ran_s`` would have run, judged by this step's trials that ran longer: the mean of what they
    had left then. None when none did."""
    rest = [seconds - ran_s for seconds in lasted if seconds > ran_s]
    return round(sum(rest) / len(rest), 1) if rest else None


class TailKiller:
    """``end(key, outcome)`` ends a trial. Only training steps have a tail worth cutting; validation is never cut."""

    def __init__(self, rule: Tail, step_trials: int, end: Callable[[str, Outcome], None], events: EventLog):
        self._rule, self._step_trials, self._end, self._events = rule, step_trials, end, events
        self._steps: dict[int, _Step] = {}

    @property
    def on(self) -> bool:
        return self._rule.target < 1.0 and self._step_trials >= self._rule.min_trials

    def asked(self, step: int, key: str, group: str) -> None:
        if self.on:
            book = self._steps.setdefault(step, _Step())
            book.started[key] = 0.0
            book.group_of[key] = group

    def running(self, step: int, key: str) -> None:
        if self.on and key in self._steps[step].started:
            self._steps[step].started[key] = time.monotonic()

    def settled(self, step: int, key: str, result: TrialResult) -> None:
        if not self.on:
            return
        book = self._steps[step]
        since = book.started.pop(key, None)
        book.done += 1
        if since and key not in book.ended:
            book.lasted.append(time.monotonic() - since)
        if result.graded and result.reward is not None:
            book.rewards[book.group_of[key]].append(result.reward)
        if book.timer is None and book.done >= self._rule.target * self._step_trials and book.started:
            book.timer = asyncio.get_running_loop().create_task(self._cut(step, book), name=f"tail-{step}")
        for old in [number for number, other in self._steps.items() if number < step - 4 and not other.started]:
            del self._steps[old]

    def close(self) -> None:
        for book in self._steps.values():
            if book.timer is not None:
                book.timer.cancel()

    async def _cut(self, step: int, book: _Step) -> None:
        for everything in (False, True):
            await asyncio.sleep(self._rule.grace_s)
            now = time.monotonic()
            groups = book.groups(now)
            chosen = victims(groups, everything)
            longest = {key: seconds for group in groups for key, seconds in group.running.items()}
            saved = {key: expected_rest_s(longest[key], book.lasted) for key in chosen}
            for key in chosen:
                self._events.emit(
                    "tail.killed",
                    step=step,
                    trial=key,
                    ran_s=round(longest[key], 1),
                    saved_s=saved[key],
                    group_decided=not everything,
                    done=book.done,
                )
                book.ended.add(key)
                self._end(key, Outcome.TAIL_KILLED)
            for key in longest.keys() - set(chosen):
                why = "its group needs it for two graded trials" if everything else "its group is not decided"
                self._events.emit("tail.spared", step=step, trial=key, ran_s=round(longest[key], 1), why=why)
            known = [rest for rest in saved.values() if rest is not None]
            self._events.emit(
                "tail.cut",
                step=step,
                killed=len(chosen),
                spared=len(longest) - len(chosen),
                done=book.done,
                saved_trial_s=round(sum(known), 1),
                saved_step_s=max(known, default=None),
            )
