"""Runs checks: each in a thread of its own, each against its own clock.

A check that raises is a bug and is reported as such, under its id; a check that does not answer within its budget is a finding too. Its
thread is a daemon and is left behind: nothing a check waits for can hold up the preflight, nor the end of its process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence

from swerl.config.nearest import suggestion
from swerl.errors import Problem
from swerl.preflight.check import Check, Fact, NotApplicable
from swerl.preflight.context import Context
from swerl.preflight.report import Result


class _Running:
    """One check at work."""

    def __init__(self, check: Check, ctx: Context):
        self.check, self.ctx = check, ctx
        self.started = time.monotonic()
        self.result: Result | None = None
        self.thread = threading.Thread(target=self._work, name=check.id, daemon=True)
        self.thread.start()

    def _work(self) -> None:
        problems, facts = [], []
        try:
            for finding in self.check.run(self.ctx):
                (facts if isinstance(finding, Fact) else problems).append(finding)
        except NotApplicable as reason:
            self._settle(problems, facts, not_applicable=str(reason))
            return
        except TimeoutError as error:
            problems.append(self._hung(str(error)))
        except Exception as error:  # a bug of the check must not hide what the others found
            problems.append(
                Problem(self.check.id, f"the check itself failed: {type(error).__name__}: {error}", "report this as a bug", "", "fatal")
            )
        self._settle(problems, facts)

    def _settle(self, problems: Sequence[Problem], facts: Sequence[Fact], not_applicable: str = "") -> None:
        self.result = Result.of(self.check, problems, [f.text for f in facts], time.monotonic() - self.started, not_applicable)

    def wait(self) -> Result:
        budget_s = self.check.budget_s * self.ctx.patience
        self.thread.join(max(0.0, self.started + budget_s - time.monotonic()))
        if self.result is not None:
            return self.result
        return Result.of(self.check, [self._hung(f"no answer within {budget_s:g} s")], [], time.monotonic() - self.started)

    def _hung(self, what: str) -> Problem:
        """Silence is no proof: it refuses the run only where no run can do without an answer, and never on a busy machine."""
        again = f"ask again with --patience {2 * self.ctx.patience:.0f}"
        if self.ctx.is_busy:
            return self.check.found(f"the probe gave no answer on a busy machine: {what}", severity="warning", remedy=f"{again}, or later")
        remedy = f"{again}; if it hangs again, {self.check.title} is what to look at"
        return self.check.found(f"the probe hung: {what}", severity=self.check.hung, remedy=remedy)


def run_checks(checks: Iterable[Check], ctx: Context) -> list[Result]:
    """Results in the order of the checks. Returns when all have answered or used up their budgets, whichever is first for each."""
    running = [_Running(check, ctx) for check in checks]
    return [one.wait() for one in running]


def within[T](seconds: float, make: Callable[[], T], otherwise: T) -> T:
    """What ``make`` gives or raises, or ``otherwise`` where it takes longer: it may wait for something that a hung check holds."""
    found: list[T] = []
    errors: list[Exception] = []

    def work() -> None:
        try:
            found.append(make())
        except Exception as error:  # handed to who asked
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    return found[0] if found else otherwise


def side_by_side[T](ask: Callable[[str], T], names: Iterable[str], most: int = 8) -> list[T]:
    """``ask`` of each, ``most`` at once, in threads that hold up nobody's end (those of ``concurrent.futures`` are waited for at exit). The
    first exception is raised."""
    asked = list(names)
    answers: dict[int, T] = {}
    errors: list[Exception] = []
    todo = iter(enumerate(asked))  # next() on it is atomic

    def work() -> None:
        for number, name in todo:
            try:
                answers[number] = ask(name)
            except Exception as error:  # handed to who asked
                errors.append(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(most, len(asked)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return [answers[number] for number in range(len(asked))]


def select(
    checks: Sequence[Check], *, only: Collection[str] = (), skip: Collection[str] = (), live: bool = True, deep: bool = False
) -> list[Check]:
    """Checks wanted by id (``SWERL-P102``, or ``p102``) or family. Naming a slow check selects it; otherwise ``deep`` does. An unknown word
    is a ValueError."""
    known = {c.id.lower(): c.id for c in checks} | {c.id.lower().removeprefix("swerl-"): c.id for c in checks}
    known |= {c.family: c.family for c in checks}
    if unknown := [word for word in (*only, *skip) if word.lower() not in known]:
        families = ", ".join(sorted({c.family for c in checks}))
        near = suggestion(unknown[0].upper(), [c.id for c in checks]) or suggestion(unknown[0], sorted({c.family for c in checks}))
        raise ValueError(f"no check or family is called {unknown[0]!r}{near}; families: {families}")
    only, skip = {known[word.lower()] for word in only}, {known[word.lower()] for word in skip}
    chosen = []
    for check in checks:
        named = check.id in only
        if only and not named and check.family not in only:
            continue
        if check.id in skip or check.family in skip or (check.live and not live) or (check.slow and not (deep or named)):
            continue
        chosen.append(check)
    return chosen
