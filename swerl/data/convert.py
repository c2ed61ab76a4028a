"""SWE-bench-like and SWE-rebench-like records (`records`) become task directories.

Every fault of every record is reported at once, by record number and field; nothing is written unless all records are sound and all their
directories are new, and then all of them or none.

The task: instruction.md is the problem statement; solution/solve.sh applies ``patch``; tests/test.sh restores the base version of every
file that ``test_patch`` touches, applies ``test_patch``, runs the tests through `judging.runner` and rewards 1 exactly if every
FAIL_TO_PASS and PASS_TO_PASS test passed (`judging.judge`). Where no test runner ran there is no reward. In the place of the judge, which
swerl's own grading keeps outside of the sandbox, what the runner reports stays in /logs/verifier.
"""

from __future__ import annotations

import json
import shlex
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swerl.data import judging
from swerl.data.records import RUNS_PYTEST, Record, check, check_pattern, fields_of, problem, read_records, touched_files
from swerl.errors import Problem, SwerlError, fail

__all__ = ["WORKDIR", "Options", "convert", "read_records"]
WORKDIR = "/testbed"
REPORT = "tests.json"  # in /logs/verifier


@dataclass(frozen=True, slots=True)
class Options:
    """``image_pattern`` serves records that name no image; it and ``workdir`` may use `fields_of`."""

    image_pattern: str = ""
    workdir: str = WORKDIR
    agent_timeout_s: int = 3000
    verifier_timeout_s: int = 1800


def convert(rows: Iterable[Mapping[str, Any]], out: Path, options: Options = Options()) -> list[Path]:
    """Write one task directory per record below ``out``; returns them in the records' order."""
    for pattern in (options.image_pattern, options.workdir):
        check_pattern(pattern)
    records: list[Record] = []
    problems: list[Problem] = []
    for number, row in enumerate(rows):
        checked = check(row, number, options.image_pattern)
        if isinstance(checked, Record):
            records.append(checked)
        else:
            problems += checked
    seen: set[str] = set()
    for record in records:
        if record.instance_id in seen:
            problems.append(problem(record.instance_id, "instance_id", "occurs twice"))
        seen.add(record.instance_id)
    if problems:
        raise SwerlError(*problems)
    if there := [record.instance_id for record in records if (out / record.instance_id).exists()]:
        what = f"{out / there[0]} exists already" + (f", and {len(there) - 1} more of these tasks" if there[1:] else "")
        raise fail("SWERL-D023", what, "give a directory without them, or remove it first", str(out))
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".converting-", dir=out) as staging:
        made = [write(record, Path(staging) / record.instance_id, options) for record in records]
        return [Path(shutil.move(path, out / path.name)) for path in made]


def write(record: Record, directory: Path, options: Options) -> Path:
    """Create the task's directory (which must not exist)."""
    for part in ("environment", "solution", "tests"):
        (directory / part).mkdir(parents=True)
    text, quoted = json.dumps, shlex.quote
    workdir = options.workdir.format_map(fields_of(record.instance_id, record.repo))
    config = {
        "": {"schema_version": "1.4"},
        "metadata": {"instance_id": record.instance_id, "repo": record.repo, "base_commit": record.base_commit},
        "agent": {"timeout_sec": options.agent_timeout_s},
        "verifier": {"timeout_sec": options.verifier_timeout_s},
        "environment": {"docker_image": record.image, "workdir": workdir},
    }
    lines = []
    for section, values in config.items():
        lines += ([f"\n[{section}]"] if section else []) + [f"{key} = {text(value)}" for key, value in values.items()]
    wanted = {"FAIL_TO_PASS": record.fail_to_pass, "PASS_TO_PASS": record.pass_to_pass}
    parts = {
        "task.toml": "\n".join(lines) + "\n",
        "instruction.md": record.problem_statement.rstrip() + "\n",
        "solution/fix.patch": record.patch,
        "tests/tests.patch": record.test_patch,
        "tests/config.json": json.dumps(wanted, indent=1),
        **{f"tests/{name}.py": judging.text(name) for name in ("runner", "sentinels", "judge")},
    }
    for name, content in parts.items():
        (directory / name).write_text(content, encoding="utf-8", newline="")
    files = [quoted(name) for name in sorted(touched_files(record.test_patch))]
    test_files = [name for name in files if name.endswith(".py")]
    commands = [f"{command} {' '.join(test_files)}" if RUNS_PYTEST.search(command) else command for command in record.test_commands]
    values = {
        "workdir": quoted(workdir),
        "base": record.base_commit,
        "files": " ".join(files),
        "twins": " ".join(f"--twins {name}" for name in test_files),
        "commands": "\n        ".join(commands),
        "report": REPORT,
    }
    for path, script in ((directory / "solution" / "solve.sh", SOLVE_SH), (directory / "tests" / "test.sh", TEST_SH)):
        path.write_text(script.format(**values), encoding="utf-8")
        path.chmod(0o755)
    return directory


SOLVE_SH = """\
#!/bin/bash
set -e
cd {workdir}
git apply --whitespace=nowarn /solution/fix.patch
"""

# A function, so that bash has read all of it before the code under test, which may write here, runs.
TEST_SH = """\
#!/bin/bash
runner=/tests/runner.py
output=/tmp/tests.out

pytest_by() {{  # PYTHON [FLAG]... TOOL [ARGUMENT]...
    local line=()
    while [[ $1 != pytest && $1 != py.test ]]; do line+=("$1"); shift; done
    command "${{line[@]}}" "$runner" --report "$output.json" --key /tests/.key --work {workdir} {twins} "$@"
}}
python_or_pytest() {{
    local whole=("$@") line=("$1")
    shift
    while [[ $1 == -* && $1 != -m ]]; do line+=("$1"); shift; done
    if [[ $1 == -m && $2 == pytest ]]; then shift; pytest_by "${{line[@]}}" "$@"; else command "${{whole[@]}}"; fi
}}
python() {{ python_or_pytest python "$@"; }}
python3() {{ python_or_pytest python3 "$@"; }}
pytest() {{
    local first= found
    found=$(type -P pytest) || {{ echo "pytest: command not found"; return 127; }}
    read -r first < "$found"
    case $first in "#!"*python*) first=${{first#"#!"}};; *) first=python;; esac
    pytest_by $first py.test "$@"
}}
py.test() {{ pytest "$@"; }}

main() {{
    cd {workdir} || return 1
    rm -f "$output" "$output.json"
    # A sandbox may have reduced the history to one commit, which then is the base.
    base=$(git rev-parse -q --verify "{base}^{{commit}}" || git rev-list --max-parents=0 HEAD | tail -n 1)
    # The agent may have edited or added test files: those that the hidden tests touch are put back first.
    for file in {files}; do
        git checkout -q "$base" -- "$file" 2>/dev/null || rm -rf "$file"
    done
    if ! git apply --whitespace=nowarn /tests/tests.patch; then
        [ ! -f /tests/judge.py ] || echo '{{"reward": 0}}' > /logs/verifier/reward.json
        return 3
    fi
    rm -f /tests/tests.patch  # it holds what the tests expect
    # Images of such sets keep Python in a conda environment, which a shell that is not a login shell does not activate.
    for conda in /opt/miniconda3 /opt/conda /root/miniconda3; do
        if [ -d "$conda/envs/testbed" ]; then . "$conda/bin/activate" testbed; break; fi
    done
    {{
        {commands}
    }} > "$output" 2>&1
    cat "$output"
    if [ -f /tests/judge.py ]; then
        command python3 -I /tests/judge.py /tests/config.json "$output.json" "$output" > /logs/verifier/reward.json \\
            || rm -f /logs/verifier/reward.json
    elif [ -f "$output.json" ]; then
        cat "$output.json" > /logs/verifier/{report}
    fi
    return 0
}}
main; exit $?
"""
