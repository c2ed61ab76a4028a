"""The emulated shell does what bash and sed do, the grader what the hidden tests do, the rates what their formulas say."""

from __future__ import annotations

import random
import subprocess
from dataclasses import replace
from math import isclose
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swerl.data.generate import make_tasks

pytestmark = pytest.mark.train
TASKS = make_tasks(31, 40, "train")


def real_shell(files: dict[str, str], command: str, where: Path) -> tuple[str, dict[str, str]]:
    for name, code in files.items():
        (where / name).write_text(code)
    done = subprocess.run(["bash", "-c", command], cwd=where, capture_output=True, text=True)
    return done.stdout + done.stderr, {name: (where / name).read_text() for name in files}


def test_the_shell_agrees_with_bash_and_sed(tmp_path: Path) -> None:
    from swerl.policy.emulate import run_command

    rng = random.Random(1)
    for task in TASKS[:12]:
        other = rng.choice(TASKS)
        commands = [
            f"cat -n {task.file}",
            f"cat {task.file}",
            "cat -n nowhere.py",
            task.edit.command(task.file),
            other.edit.command(task.file),
            task.edit.command("nowhere.py"),
            f"sed -i '99s/a/b/' {task.file}",
            f"sed -i 's/return/give/g' {task.file}",
            f"sed -i 's/e//' {task.file}",
        ]
        for command in commands:
            assert run_command(task.files, command) == real_shell(task.files, command, tmp_path), command


@pytest.mark.parametrize(
    "command", ["rm core.py", "cat ../x.py", "sed -i 's/a.*/b/' core.py", "sed -i 's/a/b/e' core.py", "cat core.py; ls"]
)
def test_other_commands_are_refused(command: str) -> None:
    from swerl.policy.emulate import run_command

    files = {"core.py": "a = 1\n"}
    assert run_command(files, command) == ("bash: refused\n", files)


def test_the_grader_knows_gold_bug_and_equivalent() -> None:
    from swerl.policy.emulate import grade

    for task in TASKS[:12]:
        assert grade(task, {**task.files, task.file: task.gold}) == 1.0
        assert grade(task, {**task.files, task.file: task.gold + "\n# a note\n"}) == 1.0
        assert grade(task, task.files) == 0.0


@pytest.mark.parametrize("code", ["while True: pass\n", "import os\n", "def (\n", "print('x')\n", "().__class__\n", ""])
def test_mangled_programs_fail_and_reach_nothing(code: str) -> None:
    from swerl.policy.emulate import grade

    assert grade(TASKS[0], {**TASKS[0].files, TASKS[0].file: code}) == 0.0


@given(st.integers(1, 12), st.data(), st.integers(1, 12))
def test_pass_at_k(samples: int, data: st.DataObject, k: int) -> None:
    from swerl.policy.measure import pass_at

    correct = data.draw(st.integers(0, samples))
    value = pass_at(samples, correct, k)
    assert 0 <= value <= 1 and (value == 0) == (correct == 0)
    assert value >= pass_at(samples, correct, max(1, k - 1)) - 1e-12
    assert isclose(pass_at(samples, correct, 1), correct / samples)


def test_rates_of_trials_made_by_hand() -> None:
    from swerl.policy.emulate import Trial
    from swerl.policy.measure import rates

    blank = Trial(TASKS[0], [1], [False], {})
    read, edit = "cat -n core.py", "sed -i '1s/a/b/' core.py"
    trials = [
        replace(blank, commands=[read, edit], reward=1.0),
        replace(blank, commands=[read, edit]),
        replace(blank, commands=[read]),
        replace(blank, commands=[edit], reward=1.0),
        replace(blank, malformed=True),
        *[replace(blank)] * 3,
    ]
    found = rates(trials, 4)
    assert (found.pass_at_1, found.read_first, found.ok_given_edit, found.malformed) == (0.25, 3 / 8, 0.5, 1 / 8)
    assert found.pass_at_4 == 0.5


def test_gspo_loss_is_minus_the_mean_advantage_before_any_update_and_pushes_the_right_way() -> None:
    import torch

    from swerl.policy.reinforce import gspo_loss

    old = torch.tensor([[-1.0, -2.0, -0.5], [-1.5, -0.2, -3.0]])
    mask = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
    new = old.clone().requires_grad_()
    loss = gspo_loss(new, old, mask, torch.tensor([1.0, -2.0]), clip=0.2)
    assert isclose(loss.item(), 0.5, abs_tol=1e-6)
    loss.backward()
    assert new.grad[0, :2].lt(0).all() and new.grad[1, 1:].gt(0).all() and new.grad[0, 2] == 0 and new.grad[1, 0] == 0
