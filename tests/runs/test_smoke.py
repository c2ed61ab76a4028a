"""The smoke run: what it changes of a profile, and what its gates say to a step that went well or wrong."""

from __future__ import annotations

import os
from pathlib import Path

import orjson
import pytest

from swerl.cli import smoke as verb
from swerl.config import examine
from swerl.config.schema import PROJECT_ROOT
from swerl.preflight import predict, run
from swerl.record.metrics import MetricsLog
from swerl.record.rundir import RunDir
from swerl.runs import smoke

SHAPE = PROJECT_ROOT / "tests" / "forecast" / "shapes" / "demo.json"
GOOD = {
    "training/rollout_actor_probs_pearson_corr": 0.9999,
    "actor/lr": 5e-4,
    "actor/grad_norm": 0.2,
    "critic/score/mean": 0.1,
    "critic/score/max": 1.0,
    "critic/score/min": 0.0,
    "num_turns/mean": 2.8,
    "swerl/trials/count": 32,
    "swerl/trials/in_loss": 32,
    "actor/perf/max_memory_reserved_gb": 1.3,
}


def configured(profile: str | None, sets: dict | None = None):
    texts = {key: value if isinstance(value, str) else orjson.dumps(value).decode() for key, value in (sets or {}).items()}
    found = examine(PROJECT_ROOT / "config.yaml", profile, {"model.model_path": "/m", "data.data_dir": "/d", **texts}, {})
    assert found.config is not None, found.problems
    return found.config


@pytest.mark.parametrize("profile", [None, *sorted(p.stem for p in (PROJECT_ROOT / "profiles").glob("*.yaml"))])
@pytest.mark.parametrize("gpus", [None, 24])
def test_every_profile_can_be_cut(profile, gpus):
    """What divides still divides, and nothing that makes the profile what it is has changed."""
    sets = {"infrastructure.nnodes": gpus // 8, "infrastructure.ngpus_per_node": 8} if gpus and profile is None else {}
    whole = configured(profile, sets)
    cut = configured(profile, {**sets, **smoke.cut(whole)})
    report = run(cut, only=["batch", "training"], live=False)
    assert not [p for p in report.fatal if p.id.startswith("SWERL-P2")], report.render()
    training = cut.training
    assert (training.n_resp_per_prompt, training.total_steps, training.val_before_train) == (4, 1, False)
    assert training.train_batch_size >= 8 and cut.run_id == f"{whole.run_id}-smoke"
    for section in ("model", "data", "environment", "vllm", "harbor_agent", "reward", "gateway"):
        assert getattr(cut, section) == getattr(whole, section), section


@pytest.fixture
def made(tmp_path):
    """A smoke run's directory whose one step had these metrics, and the gates' answers by name."""
    config = configured("demo-cpu", {"experiment.runs_dir": str(tmp_path)})
    config = configured("demo-cpu", {"experiment.runs_dir": str(tmp_path), **smoke.cut(config)})
    directory = RunDir.at(config.run_dir)
    directory.create()

    def judge(**changes: object) -> dict[str, bool | None]:
        directory.metrics.unlink(missing_ok=True)
        MetricsLog(directory.metrics).append(1, "L1", {**GOOD, **{name.replace("__", "/"): value for name, value in changes.items()}})
        folder = directory.checkpoints / "global_step_1" / "actor"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.pt").write_bytes(bytes(7_100_000))
        return {gate.name: gate.ok for gate in smoke.gates(directory, config, predict(config, model_config=SHAPE))}

    return judge


def test_a_good_step_passes_every_gate_that_applies(made):
    found = made()
    assert set(found.values()) <= {True, None} and [name for name, ok in found.items() if ok is None] == ["engine memory"]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("engine and trainer agree", {"training__rollout_actor_probs_pearson_corr": 0.75}),
        ("learning rate", {"actor__lr": 0.0}),
        ("gradient", {"actor__grad_norm": None}),
        ("reward", {"critic__score__max": 0.0}),
        ("turns", {"num_turns__mean": 0.0}),
        ("trials with a verdict", {"swerl__trials__in_loss": 20}),
        ("trainer memory", {"actor__perf__max_memory_reserved_gb": 3.0}),
    ],
)
def test_each_gate_fails_by_itself(made, name, changes):
    assert [gate for gate, ok in made(**changes).items() if ok is False] == [name]


def test_a_run_without_a_step_is_not_passed(tmp_path):
    config = configured("demo-cpu", {"experiment.runs_dir": str(tmp_path)})
    [gate] = smoke.gates(RunDir.at(config.run_dir), config, None)
    assert gate.ok is False and "no step" in gate.said


def test_an_earlier_smoke_run_is_removed_and_no_other_run_is(tmp_path):
    run, other = RunDir.at(tmp_path / "a-smoke"), RunDir.at(tmp_path / "a")
    for one in (run, other):
        one.create()
    smoke.remove(run)
    smoke.remove(other)
    assert not run.root.exists() and other.root.exists()


@pytest.mark.long
@pytest.mark.train
def test_a_real_smoke_run_of_the_demonstration(tmp_path):
    """``make smoke PROFILE=demo-cpu`` for real: about three minutes. Needs the demonstration's policy and tasks (make demo builds them)."""
    from click.testing import CliRunner

    if not (PROJECT_ROOT / "build" / "demo" / "policy" / "config.json").exists():
        pytest.skip("build/demo is not there: make demo builds policy and tasks")
    before = Path.cwd()
    os.chdir(PROJECT_ROOT)
    try:
        words = ["--profile", "demo-cpu", "--set", f"experiment.runs_dir={tmp_path}"]
        done = CliRunner().invoke(verb.smoke, words, standalone_mode=False, catch_exceptions=False)
    finally:
        os.chdir(before)
    assert done.return_value == 0, done.output
    assert "every gate is passed" in done.output and "FAIL" not in done.output
    assert not list(tmp_path.glob("*/checkpoints/global_step_*")), "a smoke run's weights are not kept"
