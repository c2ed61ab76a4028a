"""Generated repair tasks: they are what they say, they differ, and val shares nothing with train that the package promises it does not."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swerl.data import task_hash
from swerl.data.generate import RepairTask, harbor, make_task, make_tasks, repair
from swerl.data.generate.families import FILES
from swerl.policy.recipe import RECIPES

TASKS = {split: make_tasks(seed, number, split) for split, seed, number in (("train", 7000, 1024), ("val", 2000, 64))}


def sed(command: str, files: dict[str, str], where: Path) -> dict[str, str]:
    """Files after a real sed."""
    for name, code in files.items():
        (where / name).write_text(code)
    subprocess.run(["bash", "-c", command], cwd=where, check=True)
    return {name: (where / name).read_text() for name in files}


def hidden_tests_pass(task: RepairTask, files: dict[str, str], where: Path) -> bool:
    where.mkdir(exist_ok=True)
    for name, code in files.items():
        (where / name).write_text(code)
    text = harbor.task_files(task, "t", "train")["tests/hidden.py"][0].replace(harbor.WORKDIR, str(where))
    (where / "hidden.py").write_text(text)
    done = subprocess.run([sys.executable, "-I", "-S", "-B", where / "hidden.py"], capture_output=True, timeout=20)
    return done.returncode == 0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(["train", "val"]))
def test_gold_passes_bug_and_near_misses_are_not_gold(tmp_path_factory: pytest.TempPathFactory, seed: int, split: repair.Split) -> None:
    task = make_task(random.Random(seed), split)
    where = tmp_path_factory.mktemp("task")
    fixed = sed(task.edit.command(task.file), task.files, where)
    assert fixed == {**task.files, task.file: task.gold}
    assert hidden_tests_pass(task, fixed, where / "gold")
    assert not hidden_tests_pass(task, task.files, where / "bug")
    for miss in task.near_misses:
        missed = sed(miss.command(task.file), task.files, where)
        assert missed[task.file] not in (task.code, task.gold)


def test_seed_decides_everything_and_a_longer_set_starts_with_the_shorter() -> None:
    assert make_tasks(3, 40, "train")[:20] == make_tasks(3, 20, "train")
    assert make_tasks(3, 20, "train") != make_tasks(4, 20, "train")


def test_each_repository_occurs_once() -> None:
    for tasks in TASKS.values():
        assert len({task.key for task in tasks}) == len(tasks)


def test_kinds_and_sizes_spread() -> None:
    kinds = Counter(task.kind for task in TASKS["train"])
    assert len(kinds) == 9 and min(kinds.values()) >= 20
    assert {task.num_functions for task in TASKS["train"]} == {1, 2, 3}
    assert any(len(task.files) == 2 for task in TASKS["train"])


def test_large_repositories_hold_three_to_six_functions_and_number_their_lines_within_the_tokenizer() -> None:
    tasks = make_tasks(repair.TRAIN_SEED, 200, "train", "large")
    assert {task.num_functions for task in tasks} == {3, 4, 5, 6}
    assert max(code.count("\n") for task in tasks for code in task.files.values()) <= RECIPES["large"].shape.numbered_lines


def test_file_names_shadow_nothing() -> None:
    assert not set(FILES) & set(sys.stdlib_module_names)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def bodies(text: str) -> set[str]:
    """Every function of a module, its name taken out: arguments, docstring and body stay."""
    parts = text.strip("\n").split("\n\n")
    return {digest(f"def f({part.split('(', 1)[1]}") for part in parts}


@pytest.mark.parametrize("size", repair.SIZES)
def test_val_shares_no_repository_file_patch_or_function_body(size: str) -> None:
    seeds = {repair.TRAIN_SEED: 1024, repair.DEMONSTRATION_SEED: 3000, repair.TOKENIZER_SEED: 1000}
    train = [task for seed, number in seeds.items() for task in make_tasks(seed, number, "train", size)]
    val = make_tasks(repair.VAL_SEED, repair.NUM_VAL, "val", size)
    for what in (
        lambda task: {task.key},
        lambda task: {digest(code) for code in (*task.files.values(), task.gold)},
        lambda task: {digest(f"{task.code}\0{task.gold}")},
        lambda task: bodies(task.gold) | bodies(task.code),
    ):
        seen = set().union(*(what(task) for task in train))
        assert all(not what(task) & seen for task in val)


def test_the_body_check_sees_a_renamed_copy() -> None:
    task = TASKS["val"][0]
    name = task.cases[0].function
    renamed = replace(task, gold=task.gold.replace(name, "other_name"))
    assert bodies(renamed.gold) == bodies(task.gold) and digest(renamed.gold) != digest(task.gold)


def test_written_task_has_harbors_layout(tmp_path: Path) -> None:
    task = TASKS["val"][0]
    harbor.write_task(task, tmp_path / "a", "val-0000", "val")
    harbor.write_task(task, tmp_path / "b", "val-0000", "val")
    assert task_hash(tmp_path / "a") == task_hash(tmp_path / "b")
    assert (tmp_path / "a" / "instruction.md").read_text().strip() == task.issue
    assert {path.name for path in (tmp_path / "a" / "environment").iterdir()} == set(task.files)
    assert (tmp_path / "a" / "tests" / "test.sh").stat().st_mode & 0o100
    assert task.gold not in "".join(path.read_text() for path in (tmp_path / "a" / "environment").iterdir())


@pytest.mark.trials
def test_written_task_is_valid_for_harbor(tmp_path: Path) -> None:
    tasks = pytest.importorskip("harbor.models.task.task", reason="the trials environment has Harbor")
    harbor.write_task(TASKS["val"][0], tmp_path / "t", "val-0000-x", "val")
    task = tasks.Task(tmp_path / "t")
    assert task.config.environment.workdir == harbor.WORKDIR
    assert task.config.environment.docker_image
    assert task.instruction.strip() == TASKS["val"][0].issue
