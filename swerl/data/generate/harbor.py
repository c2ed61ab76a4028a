"""A repair task as a directory in Harbor's layout (schema 1.4), for a prebuilt image: ``environment/`` holds files and no Dockerfile.

The sandbox starts with the repository in ``/workspace``. ``tests/`` reaches the sandbox only after the agent has ended. ``tests/test.sh``
writes ``/logs/verifier/reward.json``: ``reward`` (1 if every hidden test passes) and ``edited`` (1 if any file of the repository
changed). It takes PATH, working directory and Python's search path from nothing that the agent can set, loads the modules under test by
file, and believes a pass only if the test program says how many tests ran: a program under test that ends the interpreter early fails.
"""

from __future__ import annotations

from pathlib import Path

from swerl.data.generate.repair import RepairTask

WORKDIR = "/workspace"
IMAGE = "python:3.12-slim"
AGENT_TIMEOUT_S = 300
VERIFIER_TIMEOUT_S = 60
TESTS_TIMEOUT_S = 10  # a program that hangs has failed its tests; the verifier itself has not

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
report=$(timeout -k 1 {timeout_s} python3 -I -S -B /tests/hidden.py 2>&1 </dev/null)
[ "${{report##*$'\\n'}}" = "{num_tests} hidden tests passed" ] && passed=1
echo "$report"
for file in /tests/original/*; do
    cmp -s "$file" "{workdir}/${{file##*/}}" || edited=1
done
printf '{{"reward": %d, "edited": %d}}\\n' "$passed" "$edited" > /logs/verifier/reward.json
"""

HIDDEN_PY = '''\
"""Hidden tests. Run with -I -S: nothing of the agent's directory is on the search path."""

import importlib.util
import unittest


def load(name):
    spec = importlib.util.spec_from_file_location(name, f"{workdir}/{{name}}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class HiddenTests(unittest.TestCase):
{tests}

result = unittest.main(exit=False).result
if result.wasSuccessful():
    print(f"{{result.testsRun}} hidden tests passed", flush=True)
'''

TEST = """\
    def test_{number}(self):
        self.assertEqual(load("{module}").{function}({args}), {expected})
"""


def task_files(task: RepairTask, task_id: str, split: str) -> dict[str, tuple[str, bool]]:
    """Relative path -> (text, executable) of every file of the task's directory."""
    tests = "\n".join(
        TEST.format(number=i, module=case.module, function=case.function, args=case.args, expected=case.expected)
        for i, case in enumerate(task.cases)
    )
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
        "tests/test.sh": (TEST_SH.format(workdir=WORKDIR, timeout_s=TESTS_TIMEOUT_S, num_tests=len(task.cases)), True),
        "tests/hidden.py": (HIDDEN_PY.format(workdir=WORKDIR, tests=tests), False),
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
