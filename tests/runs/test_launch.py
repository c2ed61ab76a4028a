"""From a configuration to a run and back: preparing, resuming, finishing, beginning anew. Real configuration, stand-in processes."""

import os
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from swerl.artifacts.provenance import check
from swerl.config import load
from swerl.config.schema import PROJECT_ROOT
from swerl.errors import SwerlError
from swerl.record.registry import Registry
from swerl.record.rundir import RunDir
from swerl.record.states import State
from swerl.runs.launch import plan_for
from swerl.runs.prepare import prepare, redacted, snapshot, source_state

STANDIN = Path(__file__).with_name("standin.py")
STEPS = "training.total_steps=4"


def launch(runs_dir, *words, **environment):
    done = subprocess.run(
        [sys.executable, str(STANDIN), "launch", str(runs_dir), *words],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def config(tmp_path):
    return load(PROJECT_ROOT / "config.yaml", "demo-cpu", {"experiment.runs_dir": str(tmp_path / "runs")}, {"WANDB_API_KEY": "s3cret-key"})


@pytest.mark.slow
def test_a_complete_run_is_left_alone_until_it_is_asked_for_more_or_anew(tmp_path):
    runs = tmp_path / "runs"
    code, output = launch(runs, STEPS)
    assert code == 0 and output.splitlines()[-1] == "demo-cpu completed 4 completed", output
    code, output = launch(runs, STEPS)
    assert output.splitlines()[-1] == "demo-cpu completed 4 nothing to do"
    code, output = launch(runs, "training.total_steps=6")
    assert output.splitlines()[-1] == "demo-cpu completed 6 completed" and "continues from the checkpoint of step 4" in output
    code, output = launch(runs, "training.total_steps=6", "fresh")
    assert output.splitlines()[-1] == "demo-cpu completed 6 completed" and "begins with the policy as it is" in output
    assert "the earlier run of this name is now demo-cpu~1" in output
    rows = {run.id: run for run in Registry(runs / "registry.sqlite").all()}
    assert set(rows) == {"demo-cpu", "demo-cpu~1"} and rows["demo-cpu~1"].state == State.COMPLETED
    assert (rows["demo-cpu~1"].attempt, rows["demo-cpu"].attempt) == (2, 1)
    attempts = orjson.loads((runs / "demo-cpu~1" / "manifest.json").read_bytes())["attempts"]
    assert [a["attempt"] for a in attempts] == [1, 2] and attempts[0]["config"]["digest"] != attempts[1]["config"]["digest"]
    assert not RunDir.of(runs, "demo-cpu").scratch.exists()
    stated = check(runs / "demo-cpu")
    assert not stated.problems and stated.statement["predicate"]["runDetails"]["byproducts"][0]["annotations"] == {"state": "completed"}


@pytest.mark.slow
def test_a_directory_without_row_and_a_row_without_directory_are_new_runs(tmp_path):
    runs = tmp_path / "runs"
    assert launch(runs, STEPS)[0] == 0
    (runs / "demo-cpu").rename(tmp_path / "elsewhere")
    code, output = launch(runs, STEPS)
    assert output.splitlines()[-1] == "demo-cpu completed 4 completed" and "begins with the policy as it is" in output
    for path in runs.glob("registry.sqlite*"):
        path.unlink()
    code, output = launch(runs, STEPS)
    assert code == 0 and output.splitlines()[-1].startswith("demo-cpu completed"), output


def test_the_snapshot_asks_for_the_same_run(config, tmp_path):
    (tmp_path / "snapshot.yaml").write_text(snapshot(config))
    assert load(tmp_path / "snapshot.yaml").digest == config.digest


def test_no_secret_is_in_the_run_directory(config):
    run = RunDir.at(config.run_dir)
    prepare(config, run, attempt=1, command=["swerl", "train"])
    prepare(config, run, attempt=2, command=["swerl", "train"])
    for path in run.root.rglob("*"):
        assert not path.is_file() or b"s3cret-key" not in path.read_bytes(), path
    manifest = orjson.loads(run.manifest.read_bytes())
    assert [a["attempt"] for a in manifest["attempts"]] == [1, 2]
    assert redacted(b"key: s3cret-key", ["s3cret-key"]) == b"key: <secret>"


@pytest.mark.skipif(not (PROJECT_ROOT / ".venv" / "train").is_dir(), reason="this checkout has no environments: make setup")
def test_the_manifest_names_the_versions_that_run(config):
    run = RunDir.at(config.run_dir)
    prepare(config, run, attempt=1, command=["swerl", "train"])
    assert orjson.loads(run.manifest.read_bytes())["attempts"][0]["versions"]["train"]["verl"] == "0.9.1"


def test_secrets_reach_the_trainer_and_nobody_who_serves_agents(config):
    plan = plan_for(config, RunDir.at(config.run_dir))
    assert plan.trainer.env["WANDB_API_KEY"] == "s3cret-key"
    for service in plan.services:
        assert service.env["WANDB_API_KEY"] is None
    assert plan.total_steps == 12


def test_each_start_has_a_wandb_run_that_the_manifest_names(config, tmp_path):
    sets = {"experiment.runs_dir": str(tmp_path / "runs"), "experiment.logger": '["console", "wandb"]', "credentials.wandb_mode": "offline"}
    tracked = load(PROJECT_ROOT / "config.yaml", "demo-cpu", sets, {})
    run = RunDir.at(tracked.run_dir)
    ids = []
    for attempt in (1, 2):
        prepare(tracked, run, attempt=attempt, command=["swerl", "train"])
        ids.append(orjson.loads(run.manifest.read_bytes())["attempts"][-1]["wandb_run_id"])
        assert plan_for(tracked, run).trainer.env["WANDB_RUN_ID"] == ids[-1]
    assert len(set(ids)) == 2 and all(id.isalnum() for id in ids)
    without = load(PROJECT_ROOT / "config.yaml", "demo-cpu", {**sets, "credentials.wandb_mode": "disabled"}, {})
    prepare(without, run, attempt=3, command=["swerl", "train"])
    assert orjson.loads(run.manifest.read_bytes())["attempts"][-1]["wandb_run_id"] is None
    assert "WANDB_RUN_ID" not in plan_for(without, run).trainer.env


def test_a_missing_environment_is_named(tmp_path):
    config = load(PROJECT_ROOT / "config.yaml", "demo-cpu", {"environment.venv_path": str(tmp_path / "no")})
    with pytest.raises(SwerlError, match=r"SWERL-R018 .*\n.*make setup"):
        plan_for(config, RunDir.at(config.run_dir))


def test_the_source_state_sees_changes_and_new_files(tmp_path):
    def git(*words):
        identity = ["-c", "user.name=n", "-c", "user.email=e"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *words], check=True, capture_output=True)

    assert source_state(tmp_path)["commit"] is None
    git("init")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-m", "m")
    clean = source_state(tmp_path)
    assert clean["dirty"] is False and clean["dirty_sha256"] is None and len(clean["commit"]) == 40
    (tmp_path / "a").write_text("2")
    changed = source_state(tmp_path)
    (tmp_path / "b").write_text("new")
    more = source_state(tmp_path)
    (tmp_path / "b").write_text("newer")
    last = source_state(tmp_path)
    assert len({state["dirty_sha256"] for state in (clean, changed, more, last)}) == 4
    assert b"-1" in changed["diff"] and more["untracked"] == ["b"]
