"""Real runs, interrupted and in other modes: Ctrl-C, the whole tree killed, a disk that fills up, asynchronous training, all paths.

What must hold: the same command continues, the metrics have neither hole nor double, and nothing is left behind.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.long]
TWO_STEPS = {"training.total_steps": "2", "training.test_freq": "2"}


def assert_whole(run, steps: int) -> None:
    """Every step is there once, trained on what was sampled, and nothing is left."""
    rows = run.metrics()
    assert [row.step for row in rows] == list(range(steps + 1))
    assert all(row.data["training/rollout_actor_probs_pearson_corr"] >= 0.999 for row in rows[1:])
    assert rows[-1].data["swerl/val/coverage"] == 1.0
    assert run.leftovers() == []


def test_ctrl_c_ends_the_run_and_the_same_command_continues_it(run_of):
    run = run_of("ctrl-c", **TWO_STEPS)
    run.start()
    run.await_event("trainer", "checkpoint.committed", step=1)
    run.await_event("trainer", "step.begin", step=2)
    run.process.send_signal(signal.SIGINT)
    assert run.wait(120) == 130, run.output()
    assert run.leftovers() == []
    run.start()
    assert run.wait() == 0, run.output()
    assert_whole(run, 2)
    starts = [event["restored_step"] for event in run.events("trainer") if event["kind"] == "trainer.start"]
    assert starts == [0, 1]


def test_the_whole_tree_killed_at_once(run_of):
    run = run_of("tree", **TWO_STEPS)
    run.start()
    run.await_event("trainer", "checkpoint.committed", step=1)
    run.await_event("runner", "trial.settled", step=2)
    os.killpg(
        run.process.pid, signal.SIGKILL
    )  # the supervisor; with it goes what the kernel ties to it, and the next command ends the rest
    run.process.wait(30)
    run.start()
    assert run.wait() == 0, run.output()
    assert_whole(run, 2)


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of its own for the run directory, removed afterwards; as large as preflight asks for, in memory."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6g", "tmpfs", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_fails_loudly_and_loses_nothing(run_of, small_disk):
    steps = {"training.total_steps": "4", "training.test_freq": "4"}
    run = run_of("full", **steps, **{"experiment.runs_dir": str(small_disk)})
    run.dir = type(run.dir).at(small_disk / "full")
    run.start()
    run.await_event("trainer", "checkpoint.committed", step=1)
    filler = small_disk / "filler"
    with filler.open("ab", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        free = os.statvfs(small_disk)
        os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - (64 << 20))  # most of it, before the next step is done
        while True:
            file.write(bytes(1 << 16))
    assert run.wait(600) == 1, run.output()
    assert "No space left on device" in run.output() or "disk" in run.output(), run.output()
    filler.unlink()
    run.start()
    assert run.wait() == 0, run.output()
    assert_whole(run, 4)


@pytest.mark.parametrize("settings", [{"training.mode": "colocate_async"}, {"capture.paths": "all"}], ids=["colocate_async", "all_paths"])
def test_other_modes_train_on_what_was_sampled(run_of, settings):
    run = run_of("-".join(settings.values()), **TWO_STEPS, **settings)
    run.start()
    assert run.wait() == 0, run.output()
    assert_whole(run, 2)
