"""Grader of generated tasks: the sandbox is told the calls, their results come out, and are compared with the right ones here."""

from __future__ import annotations

import json
import secrets
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swerl.data import judging
from swerl.data.generate import harbor
from swerl.trials.graders import LOGS, TESTS, Answer, Ended, Verdict, by_signal
from swerl.trials.sandboxes.received import read_file
from swerl.trials.screening import Finding

_FILE_BYTES = 1 << 20


def grader(tests: Path, workdir: str) -> Calls | None:
    cases = harbor.read_cases(tests)
    return None if cases is None else Calls(cases, workdir, tests / "original")


@dataclass(slots=True)
class Calls:
    """Rewards: ``reward`` 1 if every result is right, its type included; ``edited`` 1 if a file of the repository is not as it was."""

    cases: Sequence[tuple[str, str, Any]]
    workdir: str
    original: Path
    goes: frozenset[str] = frozenset()
    asks: bool = False
    nonce: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def command(self) -> str:
        limits = f"ulimit -S -t {harbor.TESTS_CPU_S}; ulimit -H -t {harbor.TESTS_CPU_S + 1}"
        python = f"python3 -I -S -B {TESTS}/calls.py {shlex.quote(self.workdir)} < {TESTS}/asked.json"
        return (
            "export PATH=/usr/local/bin:/usr/bin:/bin; unset PYTHONPATH PYTHONHOME PYTHONSTARTUP BASH_ENV ENV LD_PRELOAD; cd /; "
            f"{limits}; exec timeout -k 1 {harbor.TESTS_TIMEOUT_S} {python}"
        )

    def stage(self, source: Path, into: Path) -> None:
        asked = {"nonce": self.nonce, "calls": [(module, call) for module, call, _ in self.cases]}
        (into / "asked.json").write_text(json.dumps(asked))
        (into / "calls.py").write_text(judging.text("calls"))

    def judge(self, ended: Ended, answer: Answer) -> Verdict:
        findings, results = [], {}
        lines = [line.split(" ", 2)[1:] for line in ended.output.splitlines() if line.startswith(self.nonce + " ")]
        for words in lines:
            results.setdefault(words[0], " ".join(words[1:]))
        complete = "end" in results and len(lines) == len(self.cases) + 1
        if by_signal(ended.code):
            findings.append(Finding("tests-killed", f"exit code {ended.code}"))
        elif ended.code == 0 and not complete:
            findings.append(Finding("tests-ended-early", f"{len(lines)} lines for {len(self.cases)} calls"))
        if len(lines) != len(results):
            findings.append(Finding("results-doubled", f"{len(lines) - len(results)} more than calls"))
        if ended.wrote:
            findings.append(Finding("wrote-verdict", ", ".join(f"{LOGS}/{name}" for name in ended.wrote)))
        if ended.unlike or ended.added:
            findings.append(Finding("tests-changed", ", ".join([*ended.unlike, *ended.added])))
        told = [results.get(str(number)) for number in range(len(self.cases))]
        right = [result == json.dumps(wanted) for result, (_, _, wanted) in zip(told, self.cases, strict=True)]
        solved = ended.code == 0 and complete and all(right) and not findings
        self._keep(ended, told)
        return Verdict({"reward": float(solved), "edited": float(self._edited(answer))}, findings)

    def _keep(self, ended: Ended, told: Sequence[str | None]) -> None:
        lines = []
        for result, (module, call, right) in zip(told, self.cases, strict=True):
            word = "ok" if result == json.dumps(right) else "FAILED"
            lines.append(f"{word}  {module}.{call} is {(result or 'nothing')[:200]}, right is {json.dumps(right)}")
        (ended.logs / "test-stdout.txt").write_text("\n".join(lines) + f"\nexit code {ended.code}\n", errors="replace")

    def _edited(self, answer: Answer) -> bool:
        for path in self.original.iterdir():
            new = read_file(answer.directory, path.name, _FILE_BYTES)
            if path.name in answer.gone or (new is not None and new != path.read_bytes()):
                return True
        return False
