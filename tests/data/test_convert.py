"""SWE-bench-like records, all made up: what is wrong is named, what is right becomes a task whose scripts do what they say."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from swerl.cli.data import data
from swerl.data import convert, index
from swerl.data.judging.judge import judge
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
    assert tomllib.loads((task / "task.toml").read_text())["environment"]["docker_image"] == "registry/made_1776_up-1:latest"
    assert "pytest -rA --fast tests/test_m.py" in (task / "tests" / "test.sh").read_text()


def report(*results: tuple[str, str], **changes: Any) -> dict[str, Any]:
    """One of `judging.runner`, about tests of tests/test_m.py."""
    named = [(f"tests/test_m.py::{name}", outcome) for name, outcome in results]
    return {"whole": True, "sentinels_passed": [], "ended_early": False, "results": named, **changes}


BOTH = (("test_x", "passed"), ("test_y", "passed"))


@pytest.mark.parametrize(
    ("reports", "reward"),
    [
        ([report(*BOTH)], 1),
        ([report(("test_x", "passed")), report(("test_y", "passed"))], 1),
        ([report(("test_x", "passed"), ("test_y", "xfailed"))], 1),  # D-4: as the benchmark counts
        ([report(("test_x", "passed"), ("test_y", "failed"))], 0),
        ([report(("test_x", "passed"), ("test_y", "skipped"))], 0),
        ([report(("test_x", "xpassed"), ("test_y", "passed"))], 0),
        ([report(*BOTH), report(("test_x", "failed"))], 0),
        ([report(("test_y", "passed"))], 0),
        ([report(*BOTH, whole=False)], 0),
        ([report(*BOTH, ended_early=True)], 0),
        ([report(*BOTH, sentinels_passed=["tests/test_m.py::test_x"])], 0),
        ([report()], 0),
    ],
)
def test_the_judge_wants_all_named_tests(reports: list[dict[str, Any]], reward: int) -> None:
    config = {"FAIL_TO_PASS": ["tests/test_m.py::test_x"], "PASS_TO_PASS": ["tests/test_m.py::test_y"]}
    assert judge(config, reports, "")["reward"] == reward
    assert judge(config, [], "PASSED tests/test_m.py::test_x") is None, "no runner ran (D-7)"


def test_names_that_a_set_cut_and_output_that_lies() -> None:
    """D-3: a name cut at its first blank stands for all that begin so; they all count. Lines of the output count for nothing."""
    config = {"FAIL_TO_PASS": ["tests/test_m.py::test_x[one"], "PASS_TO_PASS": []}
    some = [report(("test_x[one / two]", "passed"), ("test_x[one three]", "passed"), ("test_x[ten]", "failed"))]
    assert judge(config, some, "") == {"reward": 1, "fail_to_pass": 1.0, "pass_to_pass": 0.0, "cut_names": 1, "forged": 0}
    assert judge(config, [report(("test_x[one / two]", "passed"), ("test_x[one three]", "failed"))], "")["reward"] == 0
    lie = "\x1b[32mPASSED\x1b[0m tests/test_m.py::test_x[one\n"
    assert judge(config, [report(("test_x[one / two]", "failed"))], lie)["forged"] == 1


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("install_config.log_parser", {"install_config": {"test_cmd": "pytest -rA", "log_parser": "parse_log_go"}}),
        ("install_config.test_cmd", {"install_config": {"test_cmd": ["tox -e py39"]}}),
        ("install_config.test_cmd", {"install_config": {"test_cmd": {"a": 1}}}),
        ("install_config.test_cmd", {"install_config": {"test_cmd": "echo pytest"}}),
        ("language", {"language": "go"}),
        ("FAIL_TO_PASS", {"FAIL_TO_PASS": ["test_add (tests.test_calc.AddTests)"]}),
        ("PASS_TO_PASS", {"PASS_TO_PASS": ["test_bare"]}),
        ("problem_statement", {"problem_statement": "half an emoji \ud83d"}),
        ("patch", {"patch": PATCH + "\0"}),
    ],
)
def test_what_cannot_be_judged_or_written_is_refused_by_field(tmp_path: Path, field: str, changes: dict[str, Any]) -> None:
    with pytest.raises(SwerlError) as caught:
        convert.convert([record(**changes)], tmp_path / "out")
    assert [problem.id for problem in caught.value.problems] == ["SWERL-D020"]
    assert caught.value.problems[0].where == f"made__up-1.{field}" and not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["docker_image", "image_name", "image"])
def test_an_image_under_each_of_its_names(tmp_path: Path, name: str) -> None:
    (task,) = convert.convert([{**record(docker_image=None), name: "made/up:2"}], tmp_path)
    assert tomllib.loads((task / "task.toml").read_text())["environment"]["docker_image"] == "made/up:2"


def test_patterns_know_their_fields(tmp_path: Path) -> None:
    options = convert.Options(image_pattern="x/{repo}.{instance_id_s}:{name}", workdir="/{name}")
    (task,) = convert.convert([record(docker_image="", instance_id="Big__name-1", repo="Own/Er")], tmp_path, options)
    assert tomllib.loads((task / "task.toml").read_text())["environment"] == {"docker_image": "x/own/er.big_s_name-1:er", "workdir": "/er"}
    for pattern in ("{other}", "{0}", "{", "{repo.x}"):
        with pytest.raises(SwerlError, match="SWERL-D022"):
            convert.convert([record()], tmp_path / "no", convert.Options(image_pattern=pattern))


def test_a_second_conversion_names_what_is_there(tmp_path: Path) -> None:
    convert.convert([record()], tmp_path)
    with pytest.raises(SwerlError, match="SWERL-D023"):
        convert.convert([record(instance_id="new"), record()], tmp_path)
    assert not (tmp_path / "new").exists() and [path.name for path in tmp_path.iterdir()] == ["made__up-1"]


class Repository:
    """A repository whose add is wrong, and records about it. ``judged`` runs a task's own scripts on a copy of it, without a sandbox, with
    the gold patch or without: the reward, or None where there is none."""

    def __init__(self, place: Path) -> None:
        self.place, self.root = place, place / "repo"
        self.root.mkdir(parents=True)
        self.files = {"calc.py": "def add(a, b):\n    return a - b\n", "conftest.py": "", "tests/test_calc.py": USE + ZERO}
        self.git("init", "-q")
        self.put(self.files)
        self.git("add", "-A")
        self.git("commit", "-qm", "base")
        self.base = self.git("rev-parse", "HEAD").strip()
        self.gold = self.difference({"calc.py": "def add(a, b):\n    return a + b\n"})

    def git(self, *words: str) -> str:
        who = ["-c", "user.email=a@b", "-c", "user.name=a"]
        return subprocess.run(["git", *who, *words], cwd=self.root, check=True, capture_output=True, text=True).stdout

    def put(self, files: dict[str, str]) -> None:
        for name, text in files.items():
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).write_text(text)

    def difference(self, files: dict[str, str]) -> str:
        self.put(files)
        self.git("add", "-A", "-N")
        found = self.git("diff", self.base)
        self.git("reset", "-q", "--hard", self.base)
        self.git("clean", "-qfd")
        return found

    def task(self, files: dict[str, str], wanted: list[str], kept: Sequence[str] = (), **more: Any) -> Path:
        names = {"FAIL_TO_PASS": [T + name for name in wanted], "PASS_TO_PASS": [T + name for name in kept]}
        row = record(base_commit=self.base, patch=self.gold, test_patch=self.difference(files), **names, **more)
        [task] = convert.convert([row], self.place / "tasks", convert.Options(workdir=str(self.root)))
        return task

    def judged(self, task: Path, *, gold: bool, path: str = "") -> float | None:
        room = self.place / ("gold" if gold else "bare")
        shutil.copytree(self.root, room / "repo")
        (room / "logs/verifier").mkdir(parents=True)
        for part in ("tests", "solution"):
            shutil.copytree(task / part, room / part)
        env = {**os.environ, "PATH": path or f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        for script in ("solution/solve.sh", "tests/test.sh") if gold else ("tests/test.sh",):
            text = (room / script).read_text().replace(str(self.root), str(room / "repo")).replace("/tmp/tests.out", f"{room}/tests.out")
            for old in ("/logs/verifier", "/tests/", "/solution/"):
                text = text.replace(f" {old}", f" {room}{old}").replace(f"={old}", f"={room}{old}")
            subprocess.run(["/bin/bash", "-c", text], env=env, capture_output=True)
        reward = room / "logs/verifier/reward.json"
        return json.loads(reward.read_text())["reward"] if reward.is_file() else None


T = "tests/test_calc.py::"
USE = "from calc import add\n\n"
ADD = "def test_add():\n    assert add(1, 2) == 3\n"
ZERO = "def test_zero():\n    assert add(0, 0) == 0\n\n"
MARKED = "import pytest\n" + USE + "@pytest.mark.xfail\ndef test_known():\n    assert add(1, 1) == 3\n\n" + ADD
CUT = "import pytest\n" + USE + "@pytest.mark.parametrize('s', ['one / two three'])\ndef test_add(s):\n    assert add(1, 2) == 3\n"
COLOUR = {"tests/test_calc.py": USE + ZERO + ADD, "tox.ini": "[pytest]\naddopts = --color=yes\n"}


@pytest.mark.parametrize(
    ("files", "wanted", "kept", "more"),
    [
        ({"tests/test_calc.py": USE + ZERO + ADD}, ["test_add"], ["test_zero"], {}),
        ({"tests/test_calc.py": CUT}, ["test_add[one"], [], {}),
        ({"tests/test_calc.py": MARKED}, ["test_add"], ["test_known"], {}),
        (COLOUR, ["test_add"], ["test_zero"], {}),
        ({"tests/test_calc.py": USE + ZERO + ADD}, ["test_add"], [], {"install_config": {"test_cmd": ["true", "pytest -rA --color=yes"]}}),
    ],
    ids=["plain", "cut name", "expected failure", "colour", "list of commands"],
)
def test_the_gold_solution_and_nothing_else_is_rewarded(tmp_path, files, wanted, kept, more) -> None:
    repository = Repository(tmp_path / "r")
    task = repository.task(files, wanted, kept, **more)
    assert (repository.judged(task, gold=True), repository.judged(task, gold=False)) == (1, 0)


def test_a_test_runner_that_never_ran_is_no_verdict(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "r")
    bare = tmp_path / "bin"
    bare.mkdir()
    for name in ("git", "cat", "rm", "tail", "bash", "python3"):
        (bare / name).symlink_to(shutil.which(name) or "")
    assert repository.judged(repository.task({"tests/test_calc.py": USE + ADD}, ["test_add"]), gold=True, path=str(bare)) is None


def test_an_edited_test_file_is_put_back(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "r")
    task = repository.task({"tests/test_calc.py": USE + ZERO + ADD}, ["test_add"])
    repository.put({"tests/test_calc.py": "def test_add():\n    pass\n"})
    assert repository.judged(task, gold=False) == 0


def test_lines_of_a_file_of_records_end_where_json_says(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text(json.dumps(record(problem_statement="one\u2028two\u0085three"), ensure_ascii=False) + "\n", "utf-8")
    assert convert.read_records(tmp_path / "r.jsonl")[0]["problem_statement"] == "one\u2028two\u0085three"


def test_command_reads_jsonl_and_names_a_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text(json.dumps(record()) + "\n")
    done = CliRunner().invoke(data, ["convert", str(tmp_path / "r.jsonl"), str(tmp_path / "out")])
    assert done.exit_code == 0
    config = tomllib.loads((tmp_path / "out" / "made__up-1" / "task.toml").read_text())
    assert config["environment"]["workdir"] == "/testbed"  # D-1: the command's own default
    (tmp_path / "r.jsonl").write_text("{")
    with pytest.raises(SwerlError, match="SWERL-D021"):
        convert.read_records(tmp_path / "r.jsonl")
