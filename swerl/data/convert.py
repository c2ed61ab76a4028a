"""SWE-bench-like and SWE-rebench-like records become task directories.

A record holds instance_id, repo, base_commit, problem_statement, patch, test_patch, FAIL_TO_PASS and PASS_TO_PASS (lists, or lists as
JSON text), and an image: ``docker_image`` or ``image_name`` in the record, or a pattern given here. ``install_config.test_cmd``
(SWE-rebench) is the test command; without it pytest runs the named tests. Every fault of every record is reported at once, by record
number and field (SWERL-D020); nothing is written unless all records are sound.

The task: instruction.md is the problem statement; solution/solve.sh applies ``patch``; tests/test.sh restores the base version of every
file that ``test_patch`` touches, applies ``test_patch``, runs the tests and rewards 1 exactly if every FAIL_TO_PASS and PASS_TO_PASS test
passed.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swerl.errors import Problem, SwerlError, fail

PYTEST = "python -m pytest -rA --no-header -p no:cacheprovider --tb=no"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_COMMIT = re.compile(r"[0-9a-f]{7,40}")
_TARGET = re.compile(r"^(?:---|\+\+\+) [ab]/(\S+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Record:
    """One checked record. Tests are names as pytest prints them."""

    instance_id: str
    repo: str
    base_commit: str
    problem_statement: str
    patch: str
    test_patch: str
    fail_to_pass: tuple[str, ...]
    pass_to_pass: tuple[str, ...]
    image: str
    test_command: str


@dataclass(frozen=True, slots=True)
class Options:
    """``image_pattern`` may use {instance_id}; it serves records that name no image."""

    image_pattern: str = ""
    workdir: str = "/testbed"
    agent_timeout_s: int = 3000
    verifier_timeout_s: int = 1800


def convert(rows: Iterable[Mapping[str, Any]], out: Path, options: Options = Options()) -> list[Path]:
    """Write one task directory per record below ``out``; returns them in the records' order."""
    records: list[Record] = []
    problems: list[Problem] = []
    for number, row in enumerate(rows):
        checked = check(row, number, options)
        if isinstance(checked, Record):
            records.append(checked)
        else:
            problems += checked
    seen: set[str] = set()
    for record in records:
        if record.instance_id in seen:
            problems.append(_problem(record.instance_id, "instance_id", "occurs twice"))
        seen.add(record.instance_id)
    if problems:
        raise SwerlError(*problems)
    return [write(record, out / record.instance_id, options) for record in records]


def read_records(path: Path) -> list[dict[str, Any]]:
    """Rows of a .jsonl, .json (a list) or .parquet file."""
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        return pq.read_table(path).to_pylist()
    text = path.read_text(encoding="utf-8")
    try:
        rows = json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.splitlines() if line.strip()]
    except json.JSONDecodeError as error:
        raise fail("SWERL-D021", f"{path} is not JSON: {error}", "give a .jsonl, .json or .parquet file of records", str(path)) from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise fail("SWERL-D021", f"{path} does not hold a list of records", "give a .jsonl, .json or .parquet file of records", str(path))
    return rows


def check(row: Mapping[str, Any], number: int, options: Options) -> Record | list[Problem]:
    """The record, or everything that is wrong with it."""
    problems: list[Problem] = []
    name = str(row.get("instance_id") or f"record {number}")

    def text(key: str, pattern: re.Pattern[str] | None = None) -> str:
        value = row.get(key)
        if not isinstance(value, str) or not value.strip():
            problems.append(_problem(name, key, "is missing or empty"))
            return ""
        if pattern is not None and not pattern.fullmatch(value):
            problems.append(_problem(name, key, f"is {value!r}, which does not look like one"))
        return value

    def tests(key: str, needed: bool) -> tuple[str, ...]:
        value = row.get(key, [])
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except json.JSONDecodeError:
                value = None
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value) or (needed and not value):
            problems.append(_problem(name, key, "is not a list of test names"))
            return ()
        return tuple(value)

    image = row.get("docker_image") or row.get("image_name") or options.image_pattern.format(instance_id=name)
    if not isinstance(image, str) or not image:
        problems.append(_problem(name, "docker_image", "is missing and no image pattern is given"))
    install = row.get("install_config") or {}
    command = install.get("test_cmd") if isinstance(install, Mapping) else None
    record = Record(
        instance_id=text("instance_id", _ID),
        repo=text("repo"),
        base_commit=text("base_commit", _COMMIT),
        problem_statement=text("problem_statement"),
        patch=text("patch"),
        test_patch=text("test_patch"),
        fail_to_pass=tests("FAIL_TO_PASS", needed=True),
        pass_to_pass=tests("PASS_TO_PASS", needed=False),
        image=str(image),
        test_command=str(command or PYTEST),
    )
    if record.test_patch and not touched_files(record.test_patch):
        problems.append(_problem(name, "test_patch", "names no file"))
    return problems or record


def write(record: Record, directory: Path, options: Options) -> Path:
    """Create the task's directory (which must not exist)."""
    for part in ("environment", "solution", "tests"):
        (directory / part).mkdir(parents=True)
    text, quoted = json.dumps, shlex.quote
    config = {
        "": {"schema_version": "1.4"},
        "metadata": {"instance_id": record.instance_id, "repo": record.repo, "base_commit": record.base_commit},
        "agent": {"timeout_sec": options.agent_timeout_s},
        "verifier": {"timeout_sec": options.verifier_timeout_s},
        "environment": {"docker_image": record.image, "workdir": options.workdir},
    }
    lines = []
    for section, values in config.items():
        lines += ([f"\n[{section}]"] if section else []) + [f"{key} = {text(value)}" for key, value in values.items()]
    (directory / "task.toml").write_text("\n".join(lines) + "\n")
    (directory / "instruction.md").write_text(record.problem_statement.rstrip() + "\n")
    (directory / "solution" / "fix.patch").write_text(record.patch)
    (directory / "tests" / "tests.patch").write_text(record.test_patch)
    wanted = {"FAIL_TO_PASS": record.fail_to_pass, "PASS_TO_PASS": record.pass_to_pass}
    (directory / "tests" / "config.json").write_text(json.dumps(wanted, indent=1))
    (directory / "tests" / "judge.py").write_text(JUDGE)
    files = [quoted(name) for name in sorted(touched_files(record.test_patch))]
    values = {
        "workdir": quoted(options.workdir),
        "base": record.base_commit,
        "files": " ".join(files),
        "command": record.test_command,
        "test_files": " ".join(name for name in files if name.endswith(".py")),
    }
    for path, script in ((directory / "solution" / "solve.sh", SOLVE_SH), (directory / "tests" / "test.sh", TEST_SH)):
        path.write_text(script.format(**values))
        path.chmod(0o755)
    return directory


def touched_files(patch: str) -> set[str]:
    """Paths that a git patch changes, creates or removes."""
    return set(_TARGET.findall(patch))


def _problem(name: str, key: str, what: str) -> Problem:
    return Problem("SWERL-D020", f"record {name}: {key} {what}", "mend the record or leave it out", where=f"{name}.{key}")


SOLVE_SH = """\
#!/bin/bash
set -e
cd {workdir}
git apply --whitespace=nowarn /solution/fix.patch
"""

TEST_SH = """\
#!/bin/bash
reward=/logs/verifier/reward.json
cd {workdir} || exit 1
# A sandbox may have reduced the history to one commit, which then is the base.
base=$(git rev-parse -q --verify "{base}^{{commit}}" || git rev-list --max-parents=0 HEAD | tail -n 1)
# The agent may have edited or added test files: those that the hidden tests touch are put back first.
for file in {files}; do
    git checkout -q "$base" -- "$file" 2>/dev/null || rm -f "$file"
done
if ! git apply --whitespace=nowarn /tests/tests.patch; then
    echo '{{"reward": 0}}' > "$reward"
    exit 0
fi
{command} {test_files} > /tmp/tests.out 2>&1
cat /tmp/tests.out
python3 -I /tests/judge.py /tests/config.json /tmp/tests.out > "$reward"
"""

JUDGE = '''\
"""judge.py CONFIG REPORT: prints the reward of a pytest -rA report as JSON."""

import json
import sys

with open(sys.argv[1]) as file:
    config = json.load(file)
with open(sys.argv[2], errors="replace") as file:
    passed = {line[len("PASSED "):].strip() for line in file if line.startswith("PASSED ")}
wanted, kept = config["FAIL_TO_PASS"], config["PASS_TO_PASS"]
good, still = sum(name in passed for name in wanted), sum(name in passed for name in kept)
solved = good == len(wanted) and still == len(kept)
print(json.dumps({"reward": int(solved), "fail_to_pass": good / len(wanted), "pass_to_pass": still / max(1, len(kept))}))
'''
