"""Is a task sound? Its gold solution must be rewarded and doing nothing must not, every time.

The doctor knows no sandbox: the caller gives ``run(entry, agent) -> reward``, where ``agent`` is "oracle" (applies ``solution/solve.sh``)
or "nop", and the reward is None when the trial could not be graded. Ungraded is not 0: such a task is "ungraded", neither sound nor
broken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from swerl.data.index import Entry
from swerl.errors import fail

Agent = Literal["oracle", "nop"]
Verdict = Literal["sound", "oracle_fails", "nop_passes", "flaky", "ungraded"]
Run = Callable[[Entry, Agent], float | None]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Rewards in the order of the repetitions; None is a trial that was not graded."""

    entry: Entry
    oracle: tuple[float | None, ...]
    nop: tuple[float | None, ...]

    @property
    def verdict(self) -> Verdict:
        if None in self.oracle or None in self.nop:
            return "ungraded"
        if len(set(self.oracle)) > 1 or len(set(self.nop)) > 1:
            return "flaky"
        if self.oracle[0] != 1:
            return "oracle_fails"
        return "sound" if self.nop[0] == 0 else "nop_passes"


@dataclass(frozen=True, slots=True)
class Report:
    diagnoses: tuple[Diagnosis, ...]

    @property
    def counts(self) -> dict[Verdict, int]:
        return dict(Counter(diagnosis.verdict for diagnosis in self.diagnoses))

    @property
    def sound_share(self) -> float:
        return self.counts.get("sound", 0) / len(self.diagnoses)

    @property
    def sound(self) -> list[Entry]:
        return [diagnosis.entry for diagnosis in self.diagnoses if diagnosis.verdict == "sound"]


def choose(entries: Sequence[Entry], number: int) -> list[Entry]:
    """``number`` entries evenly spread over the list; all of them for 0."""
    if not number or number >= len(entries):
        return list(entries)
    return [entries[i * len(entries) // number] for i in range(number)]


def examine(
    entries: Sequence[Entry], run: Run, repetitions: int = 1, workers: int = 4, seen: Callable[[Diagnosis], None] = lambda diagnosis: None
) -> Report:
    """Run oracle and no-op ``repetitions`` times on every task, ``workers`` tasks at once; ``seen`` hears each diagnosis in the entries'
    order."""
    if not entries or repetitions < 1:
        raise AssertionError("the doctor needs a task and at least one repetition")

    def diagnose(entry: Entry) -> Diagnosis:
        oracle, nop = (tuple(run(entry, agent) for _ in range(repetitions)) for agent in ("oracle", "nop"))
        return Diagnosis(entry, oracle, nop)

    diagnoses = []
    with ThreadPoolExecutor(workers) as pool:
        for diagnosis in pool.map(diagnose, entries):
            seen(diagnosis)
            diagnoses.append(diagnosis)
    return Report(tuple(diagnoses))


def require(report: Report, threshold: float) -> Report:
    """The report, or SWERL-D010 when fewer than ``threshold`` of its tasks are sound."""
    if report.sound_share >= threshold:
        return report
    worst = ", ".join(_named(diagnosis) for diagnosis in _unsound(report.diagnoses))
    raise fail(
        "SWERL-D010",
        f"{report.sound_share:.1%} of {len(report.diagnoses)} tasks are sound, {threshold:.1%} are asked for: {worst}",
        "mend the tasks named, or keep the sound ones only (swerl data doctor --keep)",
    )


def _unsound(diagnoses: Iterable[Diagnosis], limit: int = 5) -> list[Diagnosis]:
    return [diagnosis for diagnosis in diagnoses if diagnosis.verdict != "sound"][:limit]


def _named(diagnosis: Diagnosis) -> str:
    return f"{diagnosis.entry.task_id} ({diagnosis.verdict}: oracle {list(diagnosis.oracle)}, no-op {list(diagnosis.nop)})"
