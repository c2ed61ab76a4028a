"""SWE-bench-like records, all made up: what is wrong is named, what is right becomes a task whose scripts do what they say."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from swerl.cli.data import data
from swerl.data import convert, index
from swerl.errors import SwerlError

PATCH = "--- a/src/m.py\n+++ b/src/m.py\n@@ -1 +1 @@\n-x = 1\n+x = 2\n"
TEST_PATCH = "--- /dev/null\n+++ b/tests/test_m.py\n@@ -0,0 +1,2 @@\n+def test_x():\n+    pass\n"


def record(**changes: Any) -> dict[str, Any]:
    return {
        "instance_id": "made__up-1",
        "repo": "made/up",
        "base_commit": "0123456789abcdef0123456789abcdef01234567",
        "problem_statement": "x is 1, should be 2.\n",
        "patch": PATCH,
        "test_patch": TEST_PATCH,
        "FAIL_TO_PASS": '["tests/test_m.py::test_x"]',
        "PASS_TO_PASS": ["tests/test_m.py::test_y"],
        "docker_image": "made/up:1",
        **changes,
    }


def test_a_record_becomes_an_indexable_task(tmp_path: Path) -> None:
    (task,) = convert.convert([record()], tmp_path)
    config = tomllib.loads((task / "task.toml").read_text())
    assert config["environment"] == {"docker_image": "made/up:1", "workdir": "/testbed"}
    assert config["metadata"]["base_commit"].startswith("01234567")
    assert index.entry(task, "train").instruction == "x is 1, should be 2."
    assert "git apply" in (task / "solution" / "solve.sh").read_text()


def test_every_fault_is_reported_and_nothing_written(tmp_path: Path) -> None:
    second = record(instance_id="b", patch="", FAIL_TO_PASS="not json")
    third = record(instance_id="c", base_commit="main", docker_image=None)
    with pytest.raises(SwerlError) as caught:
        convert.convert([record(), second, third], tmp_path / "out")
    assert {problem.where for problem in caught.value.problems} == {"b.patch", "b.FAIL_TO_PASS", "c.base_commit", "c.docker_image"}
    assert not (tmp_path / "out").exists()


def test_ids_must_differ_and_be_fit_for_a_directory(tmp_path: Path) -> None:
    with pytest.raises(SwerlError, match="occurs twice"):
        convert.convert([record(), record()], tmp_path)
    with pytest.raises(SwerlError, match="instance_id"):
        convert.convert([record(instance_id="../escape")], tmp_path)


def test_image_pattern_and_rebench_test_command(tmp_path: Path) -> None:
    row = record(docker_image=None, install_config={"test_cmd": "pytest -rA --fast"})
    (task,) = convert.convert([row], tmp_path, convert.Options(image_pattern="registry/{instance_id}:latest"))
    assert tomllib.loads((task / "task.toml").read_text())["environment"]["docker_image"] == "registry/made__up-1:latest"
    assert "pytest -rA --fast tests/test_m.py" in (task / "tests" / "test.sh").read_text()


@pytest.mark.parametrize(
    ("report", "reward"),
    [
        ("PASSED tests/test_m.py::test_x\nPASSED tests/test_m.py::test_y\n", 1),
        ("PASSED tests/test_m.py::test_x\nFAILED tests/test_m.py::test_y\n", 0),
        ("PASSED tests/test_m.py::test_y\n", 0),
        ("", 0),
    ],
)
def test_the_judge_wants_all_named_tests(tmp_path: Path, report: str, reward: int) -> None:
    (task,) = convert.convert([record()], tmp_path)
    (tmp_path / "report").write_text(report)
    command = [sys.executable, task / "tests" / "judge.py", task / "tests" / "config.json", tmp_path / "report"]
    assert json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["reward"] == reward


def test_scripts_on_a_real_repository(tmp_path: Path) -> None:
    """solve.sh fixes, test.sh restores a test file that the agent edited, and rewards exactly the fix."""
    repo, logs = tmp_path / "repo", tmp_path / "logs"
    (repo / "src").mkdir(parents=True)
    logs.mkdir()
    (repo / "src" / "m.py").write_text("x = 1\n")
    git = ["git", "-C", str(repo), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "start"]):
        subprocess.run([*git, *words], check=True)
    check = """grep -q 'x = 2' src/m.py && echo 'PASSED tests/test_m.py::test_x'; echo 'PASSED tests/test_m.py::test_y'"""
    row = record(install_config={"test_cmd": f"bash -c {shlex.quote(check)}"})
    (task,) = convert.convert([row], tmp_path / "t", convert.Options(workdir=str(repo)))

    def run(script: str) -> None:
        text = (task / script).read_text().replace("/logs/verifier", str(logs)).replace("/tests/", f"{task}/tests/")
        text = text.replace("/solution/", f"{task}/solution/").replace("/tmp/tests.out", str(tmp_path / "out"))
        subprocess.run(["bash", "-c", text], check=True, capture_output=True)

    (repo / "tests").mkdir()
    (repo / "tests" / "test_m.py").write_text("# the agent was here\n")
    run("tests/test.sh")
    assert json.loads((logs / "reward.json").read_text())["reward"] == 0
    run("solution/solve.sh")
    run("tests/test.sh")
    assert json.loads((logs / "reward.json").read_text())["reward"] == 1
    assert "the agent" not in (repo / "tests" / "test_m.py").read_text()


def test_command_reads_jsonl_and_names_a_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text(json.dumps(record()) + "\n")
    done = CliRunner().invoke(data, ["convert", str(tmp_path / "r.jsonl"), str(tmp_path / "out")])
    assert done.exit_code == 0 and (tmp_path / "out" / "made__up-1" / "task.toml").is_file()
    (tmp_path / "r.jsonl").write_text("{")
    with pytest.raises(SwerlError, match="SWERL-D021"):
        convert.read_records(tmp_path / "r.jsonl")
