"""Grader of any other task: its test.sh, which writes a reward file.

What is changed in the script: it is one compound command, so that bash has read all of it before it runs any of it; and where it runs
unittest or pytest it runs `judging.runner` in their place, which mixes in sentinels, ends what the tests leave running, and signs what it
reports. The reward counts if the script ended by itself, no test file changed, and every report is there and sound; and where the script
runs such tests, only if one of them passed. Of tests in other languages, the script's end and its file are all that is known.
"""

from __future__ import annotations

import json
import math
import re
import secrets
import shlex
import shutil
import subprocess
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from harbor.verifier.verifier import RewardFileEmptyError, RewardFileNotFoundError, VerifierOutputParseError

from swerl.data import judging
from swerl.trials.graders import KEY, LOGS, STDOUT, TESTS, Answer, Ended, NoVerdict, Verdict, by_signal, killed, reports
from swerl.trials.sandboxes.received import read_file
from swerl.trials.screening import Finding

REPORT = "swerl-tests.json"
RUNNER = f"{TESTS}/.swerl/runner.py"
REWARD_BYTES = 1 << 16
_SHELL = re.compile(r"#!\s*(?:\S*/env\s+)?(?:\S*/)?(?:ba|da|z)?sh\b")
_TIMEOUT = (
    r"(?:\btimeout(?P<options>(?:[ \t]+(?:-[ks][ \t]+\S+|--\S+|-[A-Za-z]\S*))*)[ \t]+(?P<limit>\d+(?:\.\d+)?)(?P<unit>[smh]?)[ \t]+"
    r"(?:env[ \t]+)?)?(?P<variables>(?:\w+=(?:\"[^\"]*\"|'[^']*'|\S*)[ \t]+)*)"
)
_PYTHON = re.compile(
    _TIMEOUT + r"(?P<python>(?:[\w./~-]*/)?python3?(?:\.\d+)?|\"?\$\{?\w+\}?\"?)(?P<flags>(?:[ \t]+-(?!m\b)\w+)*)[ \t]+-m[ \t]+"
    r"(?P<tool>unittest|pytest)(?=[\s;)&|])"
)
_BARE = re.compile(
    r"(?P<lead>(?:^|[;&|({!]|\bthen\b|\bdo\b|\belse\b|\bif\b)[ \t]*)"
    + _TIMEOUT
    + r"(?P<run>(?:uv|poetry|pdm)[ \t]+run[ \t]+(?:-\S+[ \t]+)*)?"
    r"(?P<tool>pytest|py\.test)(?=[\s;)&|])",
    re.MULTILINE,
)
_ITS_PYTHON = '$(sed -n "1s/^#! *//p" "$(command -v pytest)")'
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}


@dataclass(slots=True)
class Scripts:
    workdir: str
    sentinels: bool = True
    goes: frozenset[str] = frozenset({KEY})
    asks: bool = True
    key: str = field(default_factory=lambda: secrets.token_hex(32))
    runs: int = 0  # places in the script where the runner stands

    @property
    def command(self) -> str:
        return f"({TESTS}/test.sh) > {STDOUT} 2>&1"

    def stage(self, source: Path, into: Path) -> None:
        shutil.copytree(source, into, symlinks=True, dirs_exist_ok=True)
        script = into / "test.sh"
        script.chmod(0o755)
        try:
            text = script.read_bytes().decode("utf-8")
        except UnicodeDecodeError:
            return  # whatever it is, it is no script that could be read here
        if not _SHELL.match(text):
            return
        if self.sentinels:
            text, self.runs = with_runner(text, self.workdir)
        script.write_text(at_once(text), encoding="utf-8", newline="")
        if self.runs:
            (into / ".swerl").mkdir()
            for name in ("runner", "sentinels"):
                (into / ".swerl" / f"{name}.py").write_text(judging.text(name), encoding="utf-8")
            (into / KEY).write_text(self.key)

    def judge(self, ended: Ended, answer: Answer) -> Verdict:
        if by_signal(ended.code):
            raise killed(ended.code)
        told, findings = reports.read(ended, REPORT, self.key) if self.runs else ([], [])
        if ended.unlike:
            findings.append(Finding("tests-changed", ", ".join(ended.unlike)))
        decided = {finding.kind for finding in findings} & reports.DECISIVE
        try:
            rewards = self._rewards(ended)
        except NoVerdict:
            if decided:
                return Verdict({"reward": 0.0}, findings)
            raise
        if self.runs and not decided and any(rewards.values()) and not any(_passes(report) for report in told):
            findings.append(Finding("reward-without-a-passed-test", f"{len(told)} runs of the tests, none with a test that passed"))
            decided = {"reward-without-a-passed-test"}
        return Verdict({"reward": 0.0} if decided else rewards, findings)

    def _rewards(self, ended: Ended) -> dict[str, float]:
        for name, parse in (("reward.json", _from_json), ("reward.txt", _from_text)):
            data = read_file(ended.logs, name, REWARD_BYTES)
            if data is None:
                if (ended.logs / name).is_symlink() or (ended.logs / name).exists():
                    raise NoVerdict(VerifierOutputParseError(f"{name} is no regular file of at most {REWARD_BYTES} bytes"))
                continue
            if not data.strip():
                raise NoVerdict(RewardFileEmptyError(f"{name} is empty"))
            try:
                return parse(data.decode())
            except (ValueError, TypeError, RecursionError) as error:
                raise NoVerdict(VerifierOutputParseError(f"{name}: {error}")) from error
        raise NoVerdict(RewardFileNotFoundError(f"test.sh (exit code {ended.code}) wrote neither reward.json nor reward.txt in {LOGS}"))


def _passes(report: dict) -> bool:
    return any(outcome in ("passed", "xfailed") for _, outcome in report["results"])


def _from_json(text: str) -> dict[str, float]:
    rewards = json.loads(text)
    if not isinstance(rewards, dict) or not rewards:
        raise ValueError("not an object of numbers")
    return {str(name): _number(value) for name, value in rewards.items()}


def _from_text(text: str) -> dict[str, float]:
    return {"reward": _number(float(text))}


def _number(value: object) -> float:
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{str(value)[:40]} is not a number that can be a reward")
    return float(value)


def with_runner(text: str, workdir: str) -> tuple[str, int]:
    """The script with the runner in the place of unittest and pytest, and how often."""
    number = 0

    def line(match: re.Match[str], python: str) -> str:
        nonlocal number
        number += 1
        options = f"--report {LOGS}/{REPORT} --key {TESTS}/{KEY} --work {shlex.quote(workdir)} --twins {TESTS}"
        before = ""
        if match["limit"]:  # of one run; the keeper holds to it, and the shell's own is for all of them
            limit_s = float(match["limit"]) * _SECONDS[match["unit"]]
            options += f" --limit {limit_s:g}"
            before = f"timeout{match['options']} {3 * limit_s + 5:g} {'env ' if match['variables'] else ''}"
        tool = match["tool"] if python != _ITS_PYTHON else "py.test"
        return f"{before}{match['variables']}{python} {RUNNER} {options} {tool}"

    text = _PYTHON.sub(lambda match: line(match, match["python"] + match["flags"]), text)
    text = _BARE.sub(lambda match: match["lead"] + line(match, f"{match['run']}python" if match["run"] else _ITS_PYTHON), text)
    return text, number


def at_once(text: str) -> str:
    """The script as one compound command; as it is where that is no script any more (one with data behind its end)."""
    first, _, rest = text.partition("\n")
    wrapped = f"{first}\n{{ :\n{rest}\n}}; exit $?\n"
    return wrapped if _parses(wrapped) else text


@lru_cache(maxsize=1024)
def _parses(text: str) -> bool:
    return subprocess.run(["bash", "-n"], input=text.encode(), capture_output=True, check=False).returncode == 0
