"""The tests/test.sh of a generated task, run as Harbor would run it, in a bubblewrap sandbox, against honest and dishonest work."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from swerl.data.generate import harbor, make_tasks

pytestmark = pytest.mark.trials
TASK = next(task for task in make_tasks(2000, 64, "val") if len(task.files) == 1)
CHEATS = {
    "ends the interpreter": "import os\nos._exit(0)\n",
    "prints results": f"print(*{[case.expected for case in TASK.cases]!r}, sep='\\\\n')\nraise SystemExit(0)\n",
    "hangs": "while True: pass\n",
    "makes everything equal": "import unittest\nunittest.TestCase.assertEqual = lambda *a: None\nimport sys\nsys.exit(0)\n",
    "does not parse": "def (\n",
}


@pytest.fixture
def grade(tmp_path: Path):
    if shutil.which("bwrap") is None:
        pytest.fail("bubblewrap is not installed: apt install bubblewrap")
    harbor.write_task(TASK, tmp_path / "task", "t", "val")
    work, logs = tmp_path / "work", tmp_path / "logs"
    shutil.copytree(tmp_path / "task" / "environment", work)
    logs.mkdir()

    def run(*before: str) -> dict[str, int]:
        sandbox = ["bwrap", "--unshare-all", "--ro-bind", "/usr", "/usr", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp"]
        sandbox += [part for name in ("bin", "lib", "lib64") for part in ("--symlink", f"usr/{name}", f"/{name}")]
        sandbox += ["--bind", work, harbor.WORKDIR, "--bind", logs, "/logs/verifier"]
        sandbox += ["--ro-bind", tmp_path / "task" / "tests", "/tests", "--ro-bind", tmp_path / "task" / "solution", "/solution"]
        for command in before:
            subprocess.run([*sandbox, "bash", "-c", command], check=True)
        subprocess.run([*sandbox, "--chdir", harbor.WORKDIR, "bash", "/tests/test.sh"], capture_output=True, timeout=60)
        return json.loads((logs / "reward.json").read_text())

    run.work = work
    return run


def test_oracle_is_rewarded(grade) -> None:
    assert grade("bash /solution/solve.sh") == {"reward": 1, "edited": 1}


def test_no_op_is_not(grade) -> None:
    assert grade() == {"reward": 0, "edited": 0}


def test_a_wrong_edit_counts_as_an_edit(grade) -> None:
    assert grade(f"cd {harbor.WORKDIR} && echo >> {TASK.file}") == {"reward": 0, "edited": 1}


def test_a_program_that_never_ends_fails_by_its_cpu_seconds(grade) -> None:
    (grade.work / TASK.file).write_text("while True:\n    pass\n")
    began = time.monotonic()
    assert grade() == {"reward": 0, "edited": 1}
    assert time.monotonic() - began >= harbor.TESTS_CPU_S * 0.9


def test_a_stopped_clock_is_not_a_failed_test(grade) -> None:
    """A machine too busy to run the verifier for longer than its CPU limit still grades a right repair as right."""
    path = grade.work / TASK.file
    assert grade("bash /solution/solve.sh")["reward"] == 1
    path.write_text(f"import time\ntime.sleep({harbor.TESTS_CPU_S + 1})\n" + path.read_text())
    assert grade() == {"reward": 1, "edited": 1}


@pytest.mark.parametrize("name", CHEATS)
def test_a_program_that_cheats_fails(grade, name: str) -> None:
    (grade.work / TASK.file).write_text(CHEATS[name])
    assert grade() == {"reward": 0, "edited": 1}


def test_modules_and_settings_in_the_work_tree_are_not_used(grade) -> None:
    for name in ("unittest", "importlib", "sitecustomize", "python3"):
        (grade.work / f"{name}.py").write_text('print("taken over")\nimport os\nos._exit(0)\n')
    (grade.work / "python3").write_text("#!/bin/bash\nexit 0\n")
    (grade.work / "python3").chmod(0o755)
    assert grade("bash /solution/solve.sh") == {"reward": 1, "edited": 1}
