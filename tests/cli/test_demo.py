"""The demo's own parts: what it proves once, what it adds up, what its last screen says."""

from pathlib import Path

import pytest

from swerl.config import load
from swerl.config.schema import PROJECT_ROOT
from swerl.demo import Point, Results, alive_s, make_tasks, prove_tasks, table
from swerl.errors import SwerlError


@pytest.fixture
def config(tmp_path):
    sets = {"data.data_dir": str(tmp_path / "tasks"), "experiment.runs_dir": str(tmp_path / "runs")}
    return load(PROJECT_ROOT / "config.yaml", "demo-cpu", sets)


class Doctor:
    """Answers as the real one, and counts how often it is asked."""

    def __init__(self, unsound=()):
        self.asked, self.unsound = 0, list(unsound)

    def __call__(self, config, tasks, repetitions, say):
        self.asked += 1
        return {"sound_share": 1.0, "counts": {"sound": tasks}, "unsound": self.unsound}


def indexes(config, text):
    for path in (config.data.train_index, config.data.val_index):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_tasks_are_proved_once_and_again_when_they_change(config):
    indexes(config, "one")
    doctor = Doctor()
    prove_tasks(config, print, doctor, 4)
    prove_tasks(config, print, doctor, 4)
    assert doctor.asked == 1
    prove_tasks(config, print, doctor, 8)
    indexes(config, "two")
    prove_tasks(config, print, doctor, 8)
    assert doctor.asked == 3


def test_an_unsound_task_stops_the_demo_and_is_not_taken_as_proved(config):
    indexes(config, "one")
    doctor = Doctor([{"task": "val-0001-x", "verdict": "nop_passes"}])
    for _ in range(2):
        with pytest.raises(SwerlError, match=r"SWERL-R021 .*val-0001-x"):
            prove_tasks(config, print, doctor, 4)
    assert doctor.asked == 2


def test_a_step_that_fails_is_named(config, tmp_path):
    (tmp_path / "tasks").write_text("a file where a directory is wanted")
    with pytest.raises(SwerlError, match=r"SWERL-R022 .*swerl.data.generate ended with exit code 1"):
        make_tasks(config, "small", print)


def test_time_is_that_of_all_attempts_and_of_nothing_between():
    events = [
        {"kind": "run.running", "time": 100.0},
        {"kind": "process.started", "time": 130.0},
        {"kind": "run.running", "time": 1000.0},
        {"kind": "run.completed", "time": 1050.0},
    ]
    assert alive_s(events) == 80.0
    assert alive_s([]) == 0.0


def test_the_last_screen_says_before_and_after(config):
    points = (Point(0, 0.25, 0.20, 0.30, 0.50), Point(16, 0.625, 0.56, 0.68, 0.75))
    text = table(Results(points, 16, 7.5, 400.0, 8192, Path("/x/run_001")), config)
    assert "from before to after: resolve rate +0.375, pass@4 +0.250" in text
    assert "16 steps of 64 trials, 7.5 s each" in text and "6m40s" in text and "8.0 GiB" in text and "/x/run_001" in text
    assert "report     /x/run_001/report.html" in text and "curves     /x/run_001/curves" in text
    short = table(Results(points[:1], 0, None, 1.0, None, Path("/x")), config)
    assert "from before to after" not in short and "GiB" not in short
