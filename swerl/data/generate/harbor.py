"""A repair task as a directory in Harbor's layout (schema 1.4), for a prebuilt image: ``environment/`` holds files and no Dockerfile.

The sandbox starts with the repository in ``/workspace``. ``tests/`` reaches the sandbox only after the agent has ended. ``tests/test.sh``
writes ``/logs/verifier/reward.json``: ``reward`` (1 if every hidden test passes) and ``edited`` (1 if any file of the repository
changed).

swerl's runner grades such a task without ``tests/test.sh``: it recognises ``tests/hidden.py`` (`read_cases`), sends the calls into the
sandbox and compares what comes back outside, so that the right results are nowhere that the program under test can look. ``test.sh`` is
for Harbor alone. What its verdict rests on: PATH, working directory and Python's search path are not the agent's; modules under test are
loaded by file, in a process that knows the calls and not the right results. What it does not stop: a program that reads or writes
``/tests`` while it is graded.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from swerl.data.generate.repair import RepairTask

WORKDIR = "/workspace"
IMAGE = "python:3.12-slim"
AGENT_TIMEOUT_S = 300
VERIFIER_TIMEOUT_S = 120
# A program that hangs has failed its tests. Hanging is measured in seconds of CPU, since a machine that is merely busy must not turn a
# right repair into a 0; the limit on the clock, far beyond, is for programs that sleep.
TESTS_CPU_S = 5
TESTS_TIMEOUT_S = 100

TASK_TOML = """\
schema_version = "1.4"

[task]
name = "swerl-demo/{task_id}"
description = "One bug in a small Python repository."
keywords = ["repair", "python", "{family}", "{kind}"]

[metadata]
family = "{family}"
kind = "{kind}"
num_functions = {num_functions}
num_files = {num_files}
split = "{split}"

[agent]
timeout_sec = {agent_timeout_s}

[verifier]
timeout_sec = {verifier_timeout_s}

[environment]
docker_image = "{image}"
workdir = "{workdir}"
"""

SOLVE_SH = """\
#!/bin/bash
set -e
cd {workdir}
{command}
"""

TEST_SH = """\
#!/bin/bash
# The agent's PATH, working directory and Python settings do not reach the tests.
export PATH=/usr/local/bin:/usr/bin:/bin
unset PYTHONPATH PYTHONHOME PYTHONSTARTUP BASH_ENV ENV LD_PRELOAD
cd /tests || exit 1
passed=0
edited=0
(ulimit -t {cpu_s} && exec timeout -k 1 {timeout_s} python3 -I -S -B /tests/hidden.py) && passed=1
for file in /tests/original/*; do
    cmp -s "$file" "{workdir}/${{file##*/}}" || edited=1
done
printf '{{"reward": %d, "edited": %d}}\\n' "$passed" "$edited" > /logs/verifier/reward.json
"""

HIDDEN_PY = '''\
"""Hidden tests: calls and their right results. Exit status 0 if all hold.

The program under test runs in a process of its own, which is told the calls and not the results.
"""

import json
import subprocess
import sys

CASES = [
{cases}
]

CHILD = """
import importlib.util, json, os, sys

results = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)  # what the program prints is no result
for name, call in json.load(sys.stdin):
    spec = importlib.util.spec_from_file_location(name, f"{workdir}/{{name}}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    print(json.dumps(eval(call, vars(module))), file=results)
"""

asked = json.dumps([(module, call) for module, call, _ in CASES])
command = [sys.executable, "-I", "-S", "-B", "-c", CHILD]
done = subprocess.run(command, input=asked, capture_output=True, text=True)
answers = done.stdout.splitlines()
failed = 0
for number, (module, call, right) in enumerate(CASES):
    answer = answers[number] if number < len(answers) else "no result"
    ok = answer == json.dumps(right)
    failed += not ok
    print(f"{{'ok' if ok else 'FAILED'}}  {{module}}.{{call}} is {{answer[:200]}}, right is {{json.dumps(right)}}")
print(done.stderr[-2000:], end="")
sys.exit(1 if failed or len(answers) != len(CASES) else 0)
'''


def read_cases(tests: Path) -> list[tuple[str, str, Any]] | None:
    """(module, call, right result) of a generated task's tests; None if the tests are not, to the letter, what this module writes."""
    path = tests / "hidden.py"
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    if not text.startswith(HIDDEN_PY[: HIDDEN_PY.index("{")]):
        return None
    try:
        values = [node.value for node in ast.parse(text).body if isinstance(node, ast.Assign)]
        cases = ast.literal_eval(values[0])
        written = _hidden(f"    ({module!r}, {call!r}, {right!r})," for module, call, right in cases)
    except (SyntaxError, ValueError, TypeError, IndexError):
        return None
    return cases if written == text else None


def _hidden(cases: Iterable[str]) -> str:
    return HIDDEN_PY.format(workdir=WORKDIR, cases="\n".join(cases))


def task_files(task: RepairTask, task_id: str, split: str) -> dict[str, tuple[str, bool]]:
    """Relative path -> (text, executable) of every file of the task's directory."""
    cases = (f"    ({case.module!r}, {f'{case.function}({case.args})'!r}, {case.expected})," for case in task.cases)
    config = TASK_TOML.format(
        task_id=task_id,
        family=task.family,
        kind=task.kind,
        num_functions=task.num_functions,
        num_files=len(task.files),
        split=split,
        agent_timeout_s=AGENT_TIMEOUT_S,
        verifier_timeout_s=VERIFIER_TIMEOUT_S,
        image=IMAGE,
        workdir=WORKDIR,
    )
    files = {
        "task.toml": (config, False),
        "instruction.md": (task.issue + "\n", False),
        "solution/solve.sh": (SOLVE_SH.format(workdir=WORKDIR, command=task.edit.command(task.file)), True),
        "tests/test.sh": (TEST_SH.format(workdir=WORKDIR, cpu_s=TESTS_CPU_S, timeout_s=TESTS_TIMEOUT_S), True),
        "tests/hidden.py": (_hidden(cases), False),
    }
    for name, code in task.files.items():
        files[f"environment/{name}"] = (code, False)
        files[f"tests/original/{name}"] = (code, False)
    return files


def write_task(task: RepairTask, directory: Path, task_id: str, split: str) -> None:
    """Create ``directory`` (which must not exist) with the task in it."""
    directory.mkdir(parents=True)
    for relative, (text, executable) in task_files(task, task_id, split).items():
        path = directory / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755 if executable else 0o644)


def task_id(split: str, index: int, task: RepairTask) -> str:
    """Readable, unique within a set, and fit for Harbor's task names."""
    return f"{split}-{index:04d}-{task.kind.replace('_', '-')}"
