"""From a run's configuration to what the runner is told, and to the sandbox's specification."""

from pathlib import Path

from swerl.config import load
from swerl.record.model import TrialRequest
from swerl.trials.backends import Bubblewrap
from swerl.trials.settings import run_tag, settings_from

ROOT = Path(__file__).resolve().parents[2]


def demo(**changes):
    sets = {"experiment.runs_dir": "/nowhere/runs", **{key.replace("__", "."): value for key, value in changes.items()}}
    cfg = load(ROOT / "config.yaml", profile="demo-cpu", overrides=sets, env={})
    return cfg, settings_from(cfg, cfg.run_dir)


def test_the_demo_profile():
    cfg, settings = demo()
    assert settings.harbor["environment"]["import_path"] == Bubblewrap.path
    assert settings.harbor["agent"]["import_path"] == "swerl.trials.agents.mini:MiniAgent"
    assert settings.trials_dir == cfg.experiment.trials_dir and settings.trials_dir.is_relative_to(cfg.run_dir / "trials")
    assert settings.step_trials == cfg.training.train_batch_size * cfg.training.n_resp_per_prompt
    assert settings.journal_path == cfg.run_dir / "trials" / "journal.jsonl"


def test_every_key_of_the_runner_arrives():
    _, settings = demo(
        harbor_runtime__num_workers="3",
        harbor_runtime__tail_kill_target="0.9",
        harbor_runtime__tail_kill_grace_sec="7",
        harbor_runtime__tail_kill_min_tasks="5",
        harbor_runtime__retry_budget="0.5",
        harbor_runtime__retry_quarantined="true",
        harbor_runtime__trial_hard_timeout_sec="77",
        harbor_runtime__sandbox__network="none",
        harbor_runtime__sandbox__max_processes="99",
        harbor_runtime__sandbox__max_file_mb="98",
        harbor_runtime__sandbox__disk_mb="97",
        harbor_runtime__sandbox__work_dir="/var/tmp/x",
        harbor_runtime__sandbox__rootfs="/srv/root",
        harbor_agent__max_retries="4",
        harbor_agent__max_iterations="9",
        reward__key="score",
        reward__overlong="drop",
        reward__timeout="keep",
        data__seed="42",
        algorithm__temperature="0.7",
        algorithm__val_temperature="0.3",
    )
    assert (settings.num_workers, settings.max_attempts, settings.max_turns, settings.seed) == (3, 4, 9, 42)
    assert (settings.tail.target, settings.tail.grace_s, settings.tail.min_trials) == (0.9, 7.0, 5)
    assert (settings.retry_budget, settings.hard_timeout_s) == (0.5, 77.0)
    assert (settings.retry_quarantined, settings.run_attempt) == (True, 1)
    assert settings.sandbox["limits"] == {"processes": 99, "file_mb": 98, "disk_mb": 97}
    assert (settings.sandbox["network"], settings.sandbox["work_dir"], settings.sandbox["rootfs"]) == ("none", "/var/tmp/x", "/srv/root")
    assert (settings.reward_key, settings.overlong, settings.timeout) == ("score", "drop", "keep")
    assert (settings.train.temperature, settings.val.temperature) == (0.7, 0.3)


def test_greedy_validation():
    assert demo(algorithm__val_temperature="0")[1].val.temperature == 0.0


def test_a_runs_tag_is_its_place_and_its_place_only(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").symlink_to("a")
    assert run_tag(tmp_path / "a") == run_tag(tmp_path / "b") != run_tag(tmp_path / "c")


def test_a_request_survives_json():
    body = {
        "split": "val",
        "task_dir": "/t",
        "task_hash": "sha256:1",
        "task_id": "t",
        "sample": 2,
        "version": "a:1",
        "step": 3,
    }
    request = TrialRequest.from_json(body)
    assert (request.identity.sample, request.step, request.task_dir) == (2, 3, Path("/t"))
