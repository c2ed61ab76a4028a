"""A run whose last step is saved is complete, whatever was killed afterwards: the same command loads nothing and says so."""

from pathlib import Path

import pytest

from swerl.config import dump_resolved, load
from swerl.record import checkpoints
from swerl.record.events import read_events
from swerl.record.metrics import MetricsLog, read_metrics
from swerl.record.rundir import RunDir
from swerl.trainer import __main__ as trainer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def saved(tmp_path):
    """A run directory of the demo's profile with rows and a checkpoint of a step, and the number of its steps."""

    def make(step: int) -> tuple[RunDir, int]:
        sets = {"experiment.runs_dir": str(tmp_path), "training.total_steps": "4"}
        config = load(ROOT / "config.yaml", profile="demo-cpu", overrides=sets)
        run = RunDir.at(config.run_dir)
        run.root.mkdir(parents=True)
        run.resolved.write_bytes(dump_resolved(config))
        log = MetricsLog(run.metrics)
        for n in range(step + 1):
            log.append(n, "L1", {"x": n})
        weights = run.checkpoints / f"global_step_{step}" / "actor" / "model_world_size_1_rank_0.pt"
        weights.parent.mkdir(parents=True)
        weights.write_bytes(b"w")
        checkpoints.commit(weights.parents[1], step, f"L1:{step}")
        return run, step

    return make


class LaunchedError(Exception):
    pass


def launched(*_):
    raise LaunchedError


def test_a_saved_last_step_is_the_end(saved, monkeypatch):
    monkeypatch.setattr(trainer, "launch", launched)
    run, steps = saved(4)
    assert trainer.train(run) == 0
    assert [event["how"] for event in read_events(run.events_of("trainer")) if event["kind"] == "trainer.end"] == ["completed"]
    assert [row.step for row in read_metrics(run.metrics)] == list(range(steps + 1))


def test_a_step_before_it_is_not(saved, monkeypatch):
    monkeypatch.setattr(trainer, "launch", launched)
    run, _ = saved(3)
    with pytest.raises(LaunchedError):
        trainer.train(run)
