"""One check: what it asks, how much it may cost, what to do when the answer is bad.

A check is a small class with data for attributes and one method. It reads and never writes. It yields ``Problem`` for what is wrong and
``Fact`` for what is worth printing when nothing is; it raises ``NotApplicable`` when the profile gives it nothing to look at. An id
belongs to one check for ever; ``docs/troubleshooting.md`` has an anchor per id, made from the attributes below.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from swerl.errors import Problem, Severity

if TYPE_CHECKING:
    from swerl.preflight.context import Context


@dataclass(frozen=True, slots=True)
class Fact:
    """Something measured that a person wants to see, such as ``64 x 8 = 512 trials a step``."""

    text: str


class NotApplicable(Exception):
    """The profile does not use what this check looks at, or an earlier finding stands in its way; the text says which."""


Finding = Problem | Fact


class Check:
    """``severity`` is the worst the check reports. ``live`` checks ask the machine (processes, ports, subprocesses, many files) and run
    beside each other; the others read the profile and a few small files. ``slow`` ones run only when asked for by name or with
    ``deep``. ``budget_s`` is the time after which the check counts as hung, and that is a finding: a warning, since nothing wrong was
    seen, or what ``hung`` says, for what no run can do without. ``faults`` are the numbers of the failure catalogue (J1 to J54) that it
    finds; ``asks`` completes "finds out whether …" in the documentation."""

    id: ClassVar[str]
    family: ClassVar[str]
    title: ClassVar[str]
    asks: ClassVar[str]
    remedy: ClassVar[str]
    severity: ClassVar[Severity] = "fatal"
    live: ClassVar[bool] = False
    slow: ClassVar[bool] = False
    budget_s: ClassVar[float] = 2.0
    hung: ClassVar[Severity] = "warning"
    faults: ClassVar[tuple[int, ...]] = ()

    def run(self, ctx: Context) -> Iterator[Finding]:
        raise NotImplementedError

    def found(self, message: str, where: str = "", *, remedy: str = "", severity: Severity | None = None) -> Problem:
        return Problem(self.id, message, remedy or self.remedy, where, severity or self.severity)
