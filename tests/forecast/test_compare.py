"""Forecast against reality: what a run wrote for readers, held against what its own configuration let one foresee."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from swerl.cli.forecast import forecast
from swerl.config import RunConfig, dump_resolved
from swerl.errors import SwerlError
from swerl.facts.memory import Forecast
from swerl.forecast.compare import compared
from swerl.preflight import predict
from swerl.record.rundir import RunDir

GB = 2**30


@pytest.fixture
def run(site) -> RunDir:
    """Two steps of a small run, with a validation before and after them: 100 s of boot, 30 s and 10 s a step, 20 s a validation."""
    config, _ = site.config({"training.total_steps": 2, "training.val_before_train": True, "training.test_freq": 2})
    run = RunDir.at(config.run_dir)
    run.events.mkdir(parents=True)
    run.manifest.write_text("[]")
    run.resolved.write_bytes(dump_resolved(config))
    row = {"timing_s/gen": 20.0, "swerl/trials/count": 64, "actor/perf/max_memory_reserved_gb": 1.5, "response_length/mean": 80.0}
    rows = [{**row, "timing_s/step": 30.0}, {**row, "timing_s/step": 10.0, "timing_s/testing": 20.0}]
    lines = [{"step": step, "lineage": "L1", "data": data} for step, data in enumerate([{}, *rows])]
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    trainer = [(100.0, "validation.begin"), (120.0, "validation.end"), (160.0, "validation.begin"), (180.0, "validation.end")]
    _write(run.events / "trainer.jsonl", trainer)
    _write(run.events / "supervisor.jsonl", [(0.0, "run.running"), (185.0, "run.completed")])
    return run


def foresee(config: RunConfig, shape: Path) -> Forecast:
    return predict(config, model_config=shape)


def _write(path: Path, events: list[tuple[float, str]]) -> None:
    path.write_text("".join(json.dumps({"time": at, "source": path.stem, "kind": kind}) + "\n" for at, kind in events))


def test_a_step_is_counted_with_its_validation(run: RunDir):
    """verl's time of a step ends before its validation; the forecast's does not, so the measured one may not either."""
    rows = {row.what.strip(): row for row in compared(run, foresee)}
    assert rows["validation"].measured == pytest.approx(40 / 2)
    assert rows["a step"].measured == pytest.approx(20 + 40 / 2)
    assert rows["gen"].measured == 20.0 and rows["trials a step"].ratio == 1.0
    assert rows["trials an hour"].measured == pytest.approx(3600 * 64 / 40)
    assert rows["trainer memory"].measured == 1.5 * GB
    assert rows["the whole run"].measured == 185.0 and rows["the whole run"].foreseen > 0


def test_cards_are_the_engines_only_while_it_samples(run: RunDir):
    """What a card holds during an update is the trainer's, and says nothing of the engine."""
    from swerl.forecast.compare import _while_sampling

    kinds = [("engine.ready", 0), ("sample", 70), ("engine.paused", 0), ("sample", 79), ("engine.resumed", 0), ("sample", 71)]
    events = [{"time": at, "kind": kind, "gpus": [{"memory_mb": used}]} for at, (kind, used) in enumerate(kinds)]
    assert [event["gpus"][0]["memory_mb"] for event in _while_sampling(reversed(events))] == [70, 71]


def test_a_run_with_a_break_is_not_timed_as_a_whole(run: RunDir):
    times = [(0.0, "run.running"), (90.0, "run.interrupted"), (500.0, "run.running"), (600.0, "run.completed")]
    _write(run.events / "supervisor.jsonl", times)
    assert "the whole run" not in {row.what for row in compared(run, foresee)}


def test_the_command_says_it_as_text_and_as_data(run: RunDir):
    def call(*words: str) -> str:
        return CliRunner().invoke(forecast, ["compare", *words], standalone_mode=False, catch_exceptions=False).output

    text = call(run.id, "--runs-dir", str(run.root.parent))
    assert "foreseen" in text and "the whole run" in text and "185.0 s" not in text and "3m05s" in text
    data = json.loads(call(run.id, "--runs-dir", str(run.root.parent), "--json"))
    assert {"what", "unit", "foreseen", "measured"} <= set(data[0])
    with pytest.raises(SwerlError, match=r"SWERL-R016 .*there is no run nosuch"):
        call("nosuch", "--runs-dir", str(run.root.parent))
    run.metrics.write_text("")
    with pytest.raises(SwerlError, match="SWERL-R031"):
        call(run.id, "--runs-dir", str(run.root.parent))
