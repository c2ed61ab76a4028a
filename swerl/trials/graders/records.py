"""Grader of converted records (`swerl.data.convert`): the named tests, by the runner's signed reports, judged here."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harbor.verifier.verifier import RewardFileNotFoundError

from swerl.data import judging
from swerl.data.convert import REPORT
from swerl.data.judging.judge import judge
from swerl.trials.graders import KEY, STDOUT, TESTS, Answer, Ended, NoVerdict, Verdict, by_signal, killed, reports
from swerl.trials.sandboxes.received import read_file
from swerl.trials.screening import Finding

_OUT_OF_SIGHT = ("judge.py", "config.json")
_OUTPUT_BYTES = 64 << 20


def grader(tests: Path) -> Records | None:
    if not all((tests / name).is_file() for name in (*_OUT_OF_SIGHT, "runner.py", "tests.patch")):
        return None
    return Records(json.loads((tests / "config.json").read_text(encoding="utf-8")))


@dataclass(slots=True)
class Records:
    wanted: Mapping[str, Sequence[str]]
    goes: frozenset[str] = frozenset({KEY, "tests.patch"})
    asks: bool = False
    key: str = field(default_factory=lambda: secrets.token_hex(32))

    @property
    def command(self) -> str:
        return f"({TESTS}/test.sh) > {STDOUT} 2>&1"

    def stage(self, source: Path, into: Path) -> None:
        shutil.copytree(source, into, symlinks=True, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*_OUT_OF_SIGHT))
        for name in ("runner", "sentinels"):  # ours, whatever version made the task
            (into / f"{name}.py").write_text(judging.text(name), encoding="utf-8")
        (into / "test.sh").chmod(0o755)
        (into / KEY).write_text(self.key)

    def judge(self, ended: Ended, answer: Answer) -> Verdict:
        if by_signal(ended.code):
            raise killed(ended.code)
        told, findings = reports.read(ended, REPORT, self.key)
        if not told and not findings:
            raise NoVerdict(RewardFileNotFoundError(f"no test runner ran (exit code {ended.code} of test.sh)"))
        output = (read_file(ended.logs, Path(STDOUT).name, _OUTPUT_BYTES) or b"").decode(errors="replace")
        rewards = judge({name: list(names) for name, names in self.wanted.items()}, told, output) or {"reward": 0.0}
        if rewards.pop("forged", 0):
            findings.append(Finding("forged-output", "the output calls tests passed that did not pass"))
        if ended.unlike:
            findings.append(Finding("tests-changed", ", ".join(ended.unlike)))
        decided = {finding.kind for finding in findings} & reports.DECISIVE
        return Verdict({**rewards, "reward": 0.0} if decided else rewards, findings)
