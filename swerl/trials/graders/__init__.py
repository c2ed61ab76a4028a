"""How tests become a verdict: one class for each way, chosen by what lies in a task's tests directory (`grader_for`).

Each stages what its tests need into a directory that becomes /tests in a sandbox where no agent has been, names the command to run there,
and judges what is left when every process of that sandbox but the first has ended. The judge is never in the sandbox; nor are the
expected values, where tests can run without them (`calls`, `records`).

| tests | grader | what decides |
|---|---|---|
| hidden.py of the generator | `calls` | results of calls, compared here |
| test.sh, config.json of a converted record | `records` | the outcome of every named test, from signed reports of `judging.runner` |
| any other test.sh | `scripts` | its reward file and end; unittest and pytest run under `judging.runner`, whose reports must agree |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from harbor.verifier.verifier import RewardFileNotFoundError

from swerl.trials.screening import Finding

TESTS = "/tests"
LOGS = "/logs/verifier"
STDOUT = f"{LOGS}/test-stdout.txt"
KEY = ".key"


class NoVerdict(Exception):
    """The tests gave none: no number, or nothing that is one, or they were killed. ``error`` says so in Harbor's terms. Whose doing it is,
    the same tests on the untouched task say (`swerl.trials.blame`); ``findings`` are what is known before that."""

    def __init__(self, error: Exception, *findings: Finding):
        super().__init__(str(error))
        self.error, self.findings = error, list(findings)


def killed(code: int) -> NoVerdict:
    told = f"exit code {code} of test.sh"
    return NoVerdict(RewardFileNotFoundError(f"the tests were killed: {told}"), Finding("tests-killed", told))


@dataclass(frozen=True, slots=True)
class Answer:
    """What the agent handed in, after screening: files below ``directory``, names gone."""

    directory: Path
    gone: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Ended:
    """One run of the tests. ``code`` is the command's exit code as the sandbox's first process saw it (128 + a signal's number), ``output``
    what it printed, ``logs`` what came out of /logs/verifier, ``key`` what the key file held at last, ``unlike`` the names of test files
    that are not what was staged, ``added`` those that were not, ``wrote`` reward files that nobody asked for."""

    code: int
    output: str
    logs: Path
    key: str = ""
    unlike: Sequence[str] = ()
    added: Sequence[str] = ()
    wrote: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    rewards: Mapping[str, float]
    findings: list[Finding] = field(default_factory=list)


class Grader(Protocol):
    """``goes``: names below /tests that the tests themselves replace or remove. ``asks``: whether a reward file is asked for."""

    goes: frozenset[str]
    asks: bool

    @property
    def command(self) -> str: ...
    def stage(self, source: Path, into: Path) -> None:
        """Fill ``into``, an empty directory, from the task's tests directory."""
        ...

    def judge(self, ended: Ended, answer: Answer) -> Verdict:
        """NoVerdict when the tests gave none."""
        ...


def by_signal(code: int) -> bool:
    """Whether a program with this exit code was ended, not by the limits that graders set (SIGXCPU, and `timeout`'s 124)."""
    return code >= 128 and code != 128 + 24


def grader_for(tests: Path, workdir: str, sentinels: bool) -> Grader:
    """``sentinels`` false: the task says that its tests cannot be run more than once."""
    from swerl.trials.graders import calls, records, scripts

    return calls.grader(tests, workdir) or records.grader(tests) or scripts.Scripts(workdir, sentinels)
