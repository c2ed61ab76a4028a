"""Gathering: a whole run directory written by the rooms that write one, archived and read back."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from swerl.artifacts.gather import gather
from swerl.artifacts.ledger import Ledger
from swerl.config import examine, load_resolved
from swerl.errors import SwerlError
from swerl.record.checkpoints import commit
from swerl.record.events import EventLog
from swerl.record.metrics import MetricsLog
from swerl.record.model import Identity, Timing, TrialResult
from swerl.record.outcomes import Outcome
from swerl.record.process import this_process
from swerl.record.redact import HIDDEN, redact
from swerl.record.registry import Registry
from swerl.record.rundir import RunDir, write_json
from swerl.record.states import State
from swerl.record.trial_journal import Journal
from swerl.report import add_report
from swerl.runs.prepare import prepare
from tests.record.secretkit import CASES

KEY = "0123456789abcdef0123456789abcdef01234567"


def settled(
    config, split: str, task: str, sample: int, step: int, reward: float | None, outcome: Outcome = Outcome.COMPLETED
) -> TrialResult:
    """A trial as the runner records it, with its files."""
    name = f"{task[-6:]}-{split}-{step}-{sample}"
    folder = config.experiment.trials_dir / name
    (folder / "agent").mkdir(parents=True)
    (folder / "verifier").mkdir()
    (folder / "agent" / "trajectory.json").write_text(json.dumps({"schema_version": "ATIF-v1.7", "api_key": KEY}))
    (folder / "verifier" / "reward.txt").write_text(str(reward))
    (folder / "agent" / "outside.txt").symlink_to("/etc/hostname")
    return TrialResult(
        Identity(split, task, sample, f"l:{step}"),
        name,
        outcome,
        reward is not None,
        reward is not None,
        reward,
        timing=Timing(total_s=2.0),
    )


@pytest.fixture
def make_run(site) -> Callable[..., RunDir]:
    def make(name: str = "first") -> RunDir:
        config, _ = site.config({"experiment.exp_name": name})
        run = RunDir.at(config.run_dir)
        registry = Registry(run.registry)
        registry.prepare(run.id, config.digest)
        prepare(config, run, attempt=1, command=["swerl", "train"])
        registry.begin(run.id, this_process(), 16)
        run.token.write_text("a-token-of-this-run-only")
        write_json(run.services, {"gateway": {"admin_token": "admin-token-value", "pid": 1}}, 0o600)
        EventLog(run.events_of("trainer"), "trainer").emit("step.end", step=8)
        runner = EventLog(run.events_of("runner"), "runner")
        for task in ("t1", "t2"):
            runner.emit("task.quarantined", task=task, attempts=4, error="pull failed: admin-token-value")
        runner.emit("task.released", task="t2", why="its content has changed")
        (run.logs / f"{name}.log").write_text(
            "".join(f"line {i}\n" for i in range(2000))
            + f"WANDB_API_KEY={KEY}\nGET /t/8Zx3vWq0pLkTn5YbRuE1aQ/v1/models\nBearer admin-token-value\n"
        )
        metrics = MetricsLog(run.metrics)
        metrics.append(0, "l", {"swerl/val/resolve_rate": 0.25})
        metrics.append(8, "l", {"swerl/val/resolve_rate": 0.75, "critic/score/mean": 0.5})
        journal = Journal(run.trials_journal)
        for index, task in enumerate(f"sha256:{'0' * 58}{i:06d}" for i in range(4)):
            for sample in range(4):
                journal.settle(settled(config, "val", task, sample, 0, float(index == 0)))
                journal.settle(settled(config, "val", task, sample, 8, float(index < 3)))
        journal.settle(settled(config, "train", "sha256:train0", 0, 7, None, Outcome.ENV_FAILED))
        journal.close()
        actor = run.checkpoints / "global_step_8" / "actor"
        actor.mkdir(parents=True)
        (actor / "model_world_size_1_rank_0.pt").write_bytes(b"weights")
        commit(actor.parent, 8, "l:8")
        registry.move(run.id, State.COMPLETED, exit_code=0)
        registry.close()
        return run

    return make


def test_archive_and_ledger(make_run, tmp_path: Path):
    run = make_run()
    archive = gather(run.root, report=add_report, artifacts_dir=tmp_path / "artifacts", notes="for the test")
    assert archive == tmp_path / "artifacts" / "archives" / "run_001"
    names = {str(p.relative_to(archive)) for p in archive.rglob("*") if p.is_file()}
    assert {
        "config.snapshot.yaml", "resolved.json", "manifest.json", "metrics.jsonl", "results.json", "runtime_info.yaml", "metadata.yaml",
        "SHA256SUMS", "logs/first.log", "events/trainer.jsonl", "summary.json", "report.html", "curves/validation-resolve-rate.svg",
        "curves/validation-resolve-rate.png",
    } <= names  # fmt: skip
    row = Ledger(tmp_path / "artifacts").rows()[0]
    assert (row["id"], row["run"], row["status"], row["exit_code"], row["steps"]) == ("run_001", "first", "completed", 0, 8)
    assert row["val_resolve_rate"] == 0.75 and row["notes"] == "for the test" and row["archive"] == "archives/run_001"
    metadata = yaml.safe_load((archive / "metadata.yaml").read_text())
    assert metadata["checkpoint"]["step"] == 8 and metadata["started_at"] and metadata["completed_at"]


def test_results_come_from_the_journal(make_run, tmp_path: Path):
    archive = gather(make_run().root, report=add_report, artifacts_dir=tmp_path / "artifacts")
    results = json.loads((archive / "results.json").read_bytes())
    assert [v["resolve_rate"]["value"] for v in results["validations"]] == [0.25, 0.75]
    best = results["best"]
    assert best["step"] == 8 and best["resolve_rate"]["coverage"] == 1.0 and best["pass_at"]["4"] == {"value": 0.75, "tasks": 4}
    assert 0.5 < best["resolve_rate"]["low"] < 0.75 < best["resolve_rate"]["high"]
    shown = json.loads((archive / "summary.json").read_bytes())["tasks"]["train"]
    assert [(task["id"], task["quarantined"]) for task in shown if task["quarantined"]] == [
        ("t1", "no attempt worked; the first: pull failed: <secret>")
    ]
    assert results["set_aside"] == [{"what": "task", "name": "t1", "error": "pull failed: <secret>"}]
    assert results["train"]["cost_by_outcome"] == {"env_failed": {"trials": 1, "attempts": 1, "seconds": 2.0}}


def test_outputs_are_filled_in(make_run, tmp_path: Path):
    run = make_run()
    for age, name in enumerate(("offline-run-20260101_000000-first1", "run-20260102_000000-second2")):  # a resumed run has two
        (run.root / "wandb" / name).mkdir(parents=True)
        os.utime(run.root / "wandb" / name, (age, age))
    archive = gather(run.root, report=add_report, artifacts_dir=tmp_path / "artifacts")
    output = yaml.safe_load((archive / "runtime_info.yaml").read_text())["runtime_info"]["output"]
    assert output["checkpoint_path"]["value"] == str(run.checkpoints / "global_step_8" / "actor")
    assert output["val_resolve_rate"]["value"] == 0.75
    assert output["training_log"]["value"] == str(run.trainer_log) and output["training_log"]["pattern"] == "first.log"
    assert output["vllm_log"]["value"] is None
    assert Path(output["trajectory_log"]["value"]).is_dir()
    assert output["training_curves"]["wandb_run_id"] == "second2"
    assert yaml.safe_load((archive / "metadata.yaml").read_text())["wandb_run_ids"] == ["first1", "second2"]


def test_snapshot_asks_for_the_same_run(make_run, site, tmp_path: Path):
    archive = gather(make_run().root, report=add_report, artifacts_dir=tmp_path / "artifacts")
    found = examine(archive / "config.snapshot.yaml", None, {}, site.env)
    assert found.config is not None and found.ok
    assert found.config.digest == yaml.safe_load((archive / "metadata.yaml").read_text())["config_digest"]


def test_no_secret_is_in_an_archive(make_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    archive = gather(make_run().root, report=add_report, artifacts_dir=tmp_path / "artifacts")
    for path in archive.rglob("*"):
        text = path.read_bytes().decode("latin-1") if path.is_file() else ""
        for secret in (KEY, "admin-token-value", "8Zx3vWq0pLkTn5YbRuE1aQ", "a-token-of-this-run-only"):
            assert secret not in text, (path, secret)
    assert HIDDEN in (archive / "logs" / "first.log").read_text()
    assert any(HIDDEN in p.read_text() for p in archive.glob("trajectories/*/agent/trajectory.json"))


def test_no_kind_of_secret_is_in_an_archive_wherever_it_was(make_run, tmp_path: Path):
    run = make_run()
    texts = [text for _, text in CASES.values()]
    every = "\n".join(texts)
    with run.trainer_log.open("a") as log:
        log.write(every + "\n")
    EventLog(run.events_of("trainer"), "trainer").emit("engine.died", error=every, lines=texts)
    EventLog(run.events_of("runner"), "runner").emit("task.quarantined", task="t9", attempts=4, error=every)
    (run.root / "source.1.diff").write_text("".join(f"+{line}\n" for line in every.split("\n")))
    manifest = json.loads(run.manifest.read_bytes())
    manifest["attempts"][0]["command"] = ["swerl", "train", *texts]
    write_json(run.manifest, manifest)
    with sqlite3.connect(run.registry) as registry:
        registry.execute("UPDATE runs SET problem = ?", (every,))
    registry.close()
    trials = load_resolved(run.resolved).experiment.trials_dir
    steps = [{"source": "agent", "message": text, "tool_calls": [{"arguments": {"command": text}}]} for text in texts]
    for trial in trials.iterdir():
        (trial / "agent" / "trajectory.json").write_text(json.dumps({"steps": steps}))
        (trial / "verifier" / "test-stdout.txt").write_text(every)
        (trial / "trial.log").write_text(every)
    archive = gather(run.root, report=add_report, artifacts_dir=tmp_path / "artifacts", notes=every)
    written = {path: path.read_bytes().decode("latin-1") for path in archive.rglob("*") if path.is_file()}
    assert len(written) > 20
    for kind, (secret, _) in CASES.items():
        for path, text in written.items():
            assert secret not in text, (kind, path)


def test_log_tails_and_trajectories_are_bounded(make_run, tmp_path: Path):
    archive = gather(make_run().root, report=add_report, artifacts_dir=tmp_path / "artifacts", trials=3)
    lines = (archive / "logs" / "first.log").read_text().splitlines()
    assert lines[-1].startswith("Bearer") and 300 < len(lines) < 500
    names = [p.name for p in (archive / "trajectories").iterdir()]
    assert len(names) == 3 and any("-val-8-" in n for n in names) and any("-train-" in n for n in names)
    assert not list(archive.rglob("outside.txt")), "a link that a sandbox left is not followed"


def test_gathering_again_adds_nothing(make_run, tmp_path: Path):
    run = make_run()
    first = gather(run.root, report=add_report, artifacts_dir=tmp_path / "artifacts")
    assert gather(run.root, report=add_report, artifacts_dir=tmp_path / "artifacts") == first
    MetricsLog(run.metrics).append(9, "l", {"critic/score/mean": 0.9})
    second = gather(run.root, report=add_report, artifacts_dir=tmp_path / "artifacts")
    rows = Ledger(tmp_path / "artifacts").rows()
    assert second.name == "run_002" and [r["supersedes"] for r in rows] == [None, "run_001"]
    assert sorted(p.name for p in (tmp_path / "artifacts" / "archives").iterdir()) == ["run_001", "run_002"]


def test_sums_are_right(make_run, tmp_path: Path):
    archive = gather(make_run().root, report=add_report, artifacts_dir=tmp_path / "artifacts")
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=archive, check=True)


def test_exits_at_once_never_share_a_number(make_run, tmp_path: Path):
    runs = [make_run(f"run-{i}") for i in range(4)]
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=gather, args=(run.root,), kwargs={"report": add_report, "artifacts_dir": tmp_path / "artifacts"})
        for run in runs
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    rows = Ledger(tmp_path / "artifacts").rows()
    assert [r["id"] for r in rows] == [f"run_{i:03d}" for i in range(1, 5)]
    for row in rows:
        metadata = yaml.safe_load((tmp_path / "artifacts" / row["archive"] / "metadata.yaml").read_text())
        assert metadata["run"] == row["run"], "the row and the archive of one number belong together"


def test_killed_gatherings_leave_no_half_archive(make_run, tmp_path: Path):
    run, artifacts = make_run(), tmp_path / "artifacts"
    call = f"gather(Path({str(run.root)!r}), report=add_report, artifacts_dir=Path({str(artifacts)!r}))"
    code = f"from swerl.artifacts.gather import gather; from swerl.report import add_report; from pathlib import Path; {call}"
    for delay_s in (0.3, 0.6, 0.9, 1.2):
        child = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(tmp_path)})
        time.sleep(delay_s)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        rows = Ledger(artifacts).rows() if artifacts.exists() else []
        for row in rows:
            subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=artifacts / row["archive"], check=True)
    archive = gather(run.root, report=add_report, artifacts_dir=artifacts)
    assert [r["archive"] for r in Ledger(artifacts).rows()][-1] == f"archives/{archive.name}"


def test_directory_that_is_no_run(tmp_path: Path):
    with pytest.raises(SwerlError, match="SWERL-A001"):
        gather(tmp_path, report=add_report, artifacts_dir=tmp_path / "artifacts")
    assert not (tmp_path / "artifacts").exists()


def test_broken_ledger_is_named_and_kept(make_run, tmp_path: Path):
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts" / "index.yaml").write_text("archives: 3\n")
    with pytest.raises(SwerlError, match="SWERL-A002"):
        gather(make_run().root, report=add_report, artifacts_dir=tmp_path / "artifacts")
    assert (tmp_path / "artifacts" / "index.yaml").read_text() == "archives: 3\n"
    assert not list((tmp_path / "artifacts" / "archives").iterdir())


@pytest.mark.parametrize(
    "text",
    [
        'api_key: "sk-abcdefgh12345678"',
        "OPENAI_API_KEY=sk-abcdefgh12345678",
        "Authorization: Bearer sk-abcdefgh12345678",
        "https://user:sk-abcdefgh12345678@example.org/x",
        "http://127.0.0.1:8002/t/sk-abcdefgh12345678/v1",
        '{"client_secret": "sk-abcdefgh12345678"}',
    ],
)
def test_named_secrets_are_redacted(text: str):
    assert "sk-abcdefgh12345678" not in redact(text, [])


@pytest.mark.parametrize(
    "text",
    [
        "response_tokens: 123456789",
        '"credentials.wandb_api_key": "config.yaml:105:3"',
        "max_tokens=4096000",
        "turns/mean: 2.5",
        "step:8 - actor/lr:0.0002",
        "the secret of success",
    ],
)
def test_ordinary_text_is_kept(text: str):
    assert redact(text, []) == text
