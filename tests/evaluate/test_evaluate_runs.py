"""eval and infer from the command down: supervisor, gateway, runner, sandboxes, grading. Only the engine is a stand-in."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import orjson
import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import evalkit

from swerl.cli.evaluate import derived
from swerl.cli.options import Chosen
from swerl.data import index
from swerl.evaluate import launch
from swerl.evaluate.order import Order
from swerl.record.events import read_events
from swerl.record.rundir import RunDir
from swerl.record.states import State
from swerl.record.trial_journal import read as read_journal
from swerl.runs.display import PlainDisplay
from swerl.runs.plan import Plan, ProcessSpec

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
KIT = Path(evalkit.__file__)


@pytest.fixture
def place(tmp_path):
    """(options of the command line, index, policy): the demo's profile in a directory of the test's own."""
    policy = evalkit.make_policy(tmp_path / "policy")
    tasks = evalkit.make_tasks(tmp_path / "tasks", ["easy-one", "easy-two", "hard-three"])
    values = {
        "experiment.runs_dir": tmp_path / "runs",
        "experiment.exp_name": "small",
        "data.data_dir": tmp_path / "tasks",
        "data.train_index": tasks,
        "data.val_index": tasks,
        "model.model_path": policy,
        "infrastructure.litellm_port": launch.free_port(),
        "harbor_runtime.num_workers": 4,
        "training.max_prompt_length": 400,
        "vllm.max_model_length": 2000,
        "training.max_response_length": 1500,
    }
    return {key: str(value) for key, value in values.items()}, tasks, policy


def with_stand_in(policy: Path, **env: str):
    """The real plan, with the stand-in where vLLM would be."""

    def plan(config, run, asked):
        real = launch.plan_for(config, run, asked)
        engine, *others = real.services
        argv = (sys.executable, str(KIT), "vllm", str(run.root), str(policy))
        stand_in = ProcessSpec("engine", argv, engine.log, {**env}, url_key="url", health_path="/health")
        return Plan(services=(stand_in, *others), trainer=real.trainer, trains=False)

    return plan


def make_order(config, tasks, policy, samples=2):
    return Order("infer", str(policy), "hf-test:0", str(tasks), order_sha(tasks), 0, samples, engine_port=launch.free_port())


def order_sha(path):
    from swerl.evaluate.order import sha256

    return sha256(path)


def test_an_evaluation_through_killed_processes(place):
    """The engine and the driver are killed once each: the first comes back by itself, the second by the same order."""
    overrides, tasks, policy = place
    chosen = Chosen(ROOT / "config.yaml", "demo-cpu", overrides)
    config = derived(chosen, chosen.load(), "infer", "small.infer", tasks, {})
    run = RunDir.at(config.run_dir)
    asked = make_order(config, tasks, policy)

    class Killer(PlainDisplay):
        """Kills the named process when the first trial has settled."""

        def __init__(self, name):
            super().__init__(sys.stdout)
            self.name, self.done = name, False

        def show(self, progress):
            if not self.done and progress.trials >= 1:
                victims = [p for p in psutil.Process().children(recursive=False) if named(p) == self.name]
                for victim in victims:
                    victim.send_signal(signal.SIGKILL)
                    self.done = True

    plan = with_stand_in(policy, STANDIN_DELAY_S="0.4")
    outcome, found = launch.evaluate(config, asked, lambda: Killer("evaluation"), plan=plan)
    assert outcome.state == State.FAILED and found is None and not (run.root / "evaluation.json").exists()
    settled_before = {line["result"]["trial_name"] for line in read_journal(run.trials_journal) if line["kind"] == "settled"}
    assert settled_before

    outcome, found = launch.evaluate(config, asked, lambda: Killer("engine"), plan=plan)
    assert outcome.state == State.COMPLETED, outcome
    rate = found["resolve_rate"]
    assert (rate["resolved"], rate["graded"], rate["coverage"]) == (4, 6, 1.0) and found["infrastructure_failures"]["trials"] == 0
    settled = [line["result"] for line in read_journal(run.trials_journal) if line["kind"] == "settled"]
    assert len(settled) == 6 and settled_before <= {result["trial_name"] for result in settled}  # kept, and none run twice
    began = [event for event in read_events(run.events_of("evaluation")) if event["kind"] == "evaluation.begin"]
    assert [event["left"] for event in began] == [6, 6 - len(settled_before)]

    attempts = [orjson.loads(line) for line in (run.root / "attempts.jsonl").read_bytes().splitlines()]
    assert len(attempts) == 6 and found["harvest"]["without_trajectory"] == 0
    for attempt in attempts:
        trajectory = orjson.loads((run.root / attempt["trajectory"]).read_bytes())
        assert trajectory["schema_version"].startswith("ATIF") and trajectory["steps"][0]["message"] == "Fix the bug."
        assert attempt["reward"] == (0.0 if "hard" in attempt["task_id"] else 1.0)
    assert (found["harvest"]["kept"], found["harvest"]["too_hard"], found["harvest"]["too_easy"]) == (0, 1, 2)
    assert index.read(run.root / "filtered.parquet") == []

    again, same = launch.evaluate(config, asked, lambda: Killer("nothing"), plan=plan)
    assert again is None and same == found  # carried out before: nothing is started


def named(process):
    try:
        return process.environ().get("SWERL_PROCESS")
    except psutil.Error:
        return None


def test_eval_of_a_url(place, tmp_path):
    overrides, _, _ = place
    port = launch.free_port()
    with subprocess.Popen([sys.executable, str(KIT), "openai", str(port)], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout.readline() == "ready\n"
            sets = [word for key, value in overrides.items() for word in ("--set", f"{key}={value}")]
            command = [sys.executable, "-m", "swerl.cli", "eval", "--profile", "demo-cpu", *sets, "--samples", "2", "--json"]
            command += ["--policy", f"http://127.0.0.1:{port}/v1", "--model-name", "theirs"]
            without = {name: value for name, value in os.environ.items() if name not in launch.UPSTREAM_KEYS}
            env = {**without, "SWERL_UPSTREAM_API_KEY": "upstream-key-0123456789"}
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=env)
            assert done.returncode == 0, done.stderr
            again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=env)
        finally:
            server.terminate()
    found = orjson.loads(done.stdout)
    assert (found["resolve_rate"]["resolved"], found["resolve_rate"]["graded"]) == (4, 6) and not found["tokens_recorded"]
    assert found["outcomes"] == {"completed": 6}
    assert orjson.loads(again.stdout) == found
    run = RunDir.at(tmp_path / "runs" / "small.eval")
    sessions = list(run.gateway.glob("*.jsonl"))
    lines = [orjson.loads(line) for line in sessions[0].read_bytes().splitlines()]
    assert len(sessions) == 6 and lines[0]["k"] == "open" and lines[-1]["k"] == "close"
    assert any(line["k"] == "turn" and line["message"]["role"] == "assistant" for line in lines)
    for path in run.root.rglob("*"):  # the key is in no file
        assert not path.is_file() or b"upstream-key-0123456789" not in path.read_bytes(), path


def test_a_url_that_does_not_answer_is_said_before_anything_starts(place, tmp_path):
    overrides, _, _ = place
    sets = [word for key, value in overrides.items() for word in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "swerl.cli", "eval", "--profile", "demo-cpu", *sets, "--policy", "http://127.0.0.1:9/v1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "SWERL-T063" in done.stderr and not (tmp_path / "runs").exists()
