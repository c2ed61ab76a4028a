"""Problems that users meet: one sentence that names the place, one that says what to do, and an id that never changes.

Every problem has an id such as ``SWERL-C002``. The letter is the family: C config, P preflight, R runs, G gateway, T trials, D data,
M model and policy, A artifacts, E environment. ``docs/troubleshooting.md`` has one anchor per id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["fatal", "warning", "note"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding. ``where`` is a place a person can open: ``config.yaml:12:5``, a path, a port, a process."""

    id: str
    message: str
    remedy: str
    where: str = ""
    severity: Severity = "fatal"

    @property
    def anchor(self) -> str:
        """Link target inside ``docs/troubleshooting.md``."""
        return f"docs/troubleshooting.md#{self.id.lower()}"

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "anchor": self.anchor}

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        return f"{self.id} {place}{self.message}\n    do: {self.remedy}"


class SwerlError(ValueError):
    """Raised for anything a user can cause or mend. Carries one or more problems; the command line prints them and exits 1."""

    def __init__(self, *problems: Problem):
        if not problems:
            raise AssertionError("a SwerlError names at least one problem")
        self.problems: Sequence[Problem] = problems
        super().__init__("\n".join(str(p) for p in problems))

    def __reduce__(self) -> tuple[type[SwerlError], tuple[Problem, ...]]:
        return type(self), tuple(self.problems)  # Ray carries exceptions between processes by pickle


def fail(id: str, message: str, remedy: str, where: str = "") -> SwerlError:
    """Shorthand for the common case of one fatal problem: ``raise fail("SWERL-R003", ...)``."""
    return SwerlError(Problem(id, message, remedy, where))
