"""A real run in miniature: the demo's profile over a policy of a few supervised steps and a handful of tasks, by the command users type."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from swerl.record.events import read_events
from swerl.record.metrics import read_metrics
from swerl.record.process import PROC
from swerl.record.rundir import RunDir

ROOT = Path(__file__).resolve().parents[2]
SWERL = Path(sys.executable).with_name("swerl")
PROCESSES = (  # of the trainer's tree, beside the trainer itself
    "VLLM::EngineCore",
    "ray::WorkerDict",  # the policy's optimizer
    "raylet",
    "ray::SimpleStorageUnit",  # the TransferQueue's rows
    "ray::GlobalRequestLoadBalancer",
    "ray::TrialWorker",  # runs the groups
    "ray::EngineBridge",
    "ray::vLLMHttpServer",
    "gcs_server",
    "ray::TransferQueueController",
    "ray::TrainerTask",
)


def make_world(root: Path, clean_steps: int = 40) -> dict[str, str]:
    """``--set`` values that put the demo's profile on a small policy and small tasks in ``root``. After 40 supervised steps the policy
    solves nothing."""
    code = (
        "from pathlib import Path; from swerl.data.generate import make_tasks, repair;"
        "from swerl.policy import model, tokenizer, warmstart;"
        "from swerl.policy.recipe import Recipe; import torch; torch.set_num_threads(2);"
        "words = tokenizer.build(make_tasks(repair.TOKENIZER_SEED, 400, 'train')); policy = model.new_model(words, 0);"
        f"recipe = Recipe(clean_steps={clean_steps}, mixed_steps=0, demo_tasks=640);"
        "warmstart.train(policy, words, make_tasks(repair.DEMONSTRATION_SEED, 640, 'train'), recipe, 0, print);"
        f"model.save(policy, words, Path({str(root / 'policy')!r}))"
    )
    passive = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}  # as the policy's own build: other work on the machine costs little
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=passive)
    tasks = [sys.executable, "-m", "swerl.data.generate", "--out", str(root / "tasks"), "--train", "24", "--val", "4"]
    subprocess.run(tasks, check=True, cwd=ROOT)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return {
        "model.model_path": str(root / "policy"),
        "data.data_dir": str(root / "tasks"),
        "experiment.runs_dir": str(root / "runs"),
        "infrastructure.litellm_port": str(port),
        "training.train_batch_size": "2",
        "training.train_prompt_mini_batch_size": "1",
        "training.n_resp_per_prompt": "4",
        "training.micro_batch_size_per_gpu": "4",
        "training.log_prob_micro_batch_size_per_gpu": "4",
        "training.val_batch_size": "4",
        "training.val_n": "1",
        "training.save_freq": "1",
        "harbor_runtime.num_workers": "8",
        "watch.steps": "99",  # that this policy learns nothing is no reason to end its run
    }


@dataclasses.dataclass
class Run:
    """A run by name: start it, wait for events, kill its parts, look at what is left."""

    dir: RunDir
    command: list[str]
    process: subprocess.Popen | None = None
    began: float = 0.0

    def start(self) -> None:
        self.began = time.time()
        log = (self.dir.root.parent / f"{self.dir.id}.out").open("ab")
        self.process = subprocess.Popen(self.command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)

    def wait(self, timeout_s: float = 1200) -> int:
        assert self.process is not None
        return self.process.wait(timeout_s)

    def events(self, source: str) -> list[dict]:
        return list(read_events(self.dir.events_of(source)))

    def await_event(self, source: str, kind: str, timeout_s: float = 900, **fields) -> dict:
        """The first such event since the last start; fails, with the command's output, when the command ends or time is up."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            for event in self.events(source):
                if event["kind"] == kind and event["time"] >= self.began and all(event.get(k) == v for k, v in fields.items()):
                    return event
            assert self.process is not None
            assert self.process.poll() is None, f"the run ended before {kind}: {self.output()}"
            time.sleep(0.05)
        raise AssertionError(f"no {kind} {fields} within {timeout_s} s: {self.output()}")

    def kill(self, process: str) -> None:
        """kill -9 of the newest process of that name, as the supervisor's events name it."""
        started = [e for e in self.events("supervisor") if e["kind"] == "process.started" and e["process"] == process]
        os.kill(started[-1]["pid"], signal.SIGKILL)

    def descendant(self, title: str) -> int:
        """A living process of the run whose command begins with ``title``, or is the program of that name."""
        token = self.dir.token.read_bytes().strip()
        for path in PROC.glob("[0-9]*"):
            try:
                command = (path / "cmdline").read_text().split("\0")[0]
                if (command.startswith(title) or command.endswith(f"/{title}")) and token in (path / "environ").read_bytes():
                    return int(path.name)
            except OSError:  # it ended meanwhile, or is not ours to read
                continue
        raise AssertionError(f"no {title} runs")

    def output(self) -> str:
        return (self.dir.root.parent / f"{self.dir.id}.out").read_text()[-4000:]

    def metrics(self) -> list:
        return list(read_metrics(self.dir.metrics))

    def settled(self) -> list[dict]:
        lines = self.dir.trials_journal.read_text().splitlines()
        return [entry["result"] for entry in map(json.loads, lines) if entry["kind"] == "settled"]

    def leftovers(self) -> list[str]:
        """Processes that still carry the run's token, and what stands in its sandboxes' place."""
        token = self.dir.token.read_bytes().strip()
        mine = []
        for path in PROC.glob("[0-9]*/environ"):
            try:
                if token and token in path.read_bytes():
                    mine.append((path.parent / "cmdline").read_text().replace("\0", " "))
            except OSError:  # it ended meanwhile, or is not ours to read
                continue
        mounts = [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(self.dir.root) in line]
        sandboxes = [str(p) for p in self.dir.sandboxes.glob("*/*")] if self.dir.sandboxes.exists() else []
        return mine + mounts + sandboxes

    def end(self) -> None:
        """Whatever still runs of the command is ended."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)


def run_in(world: Mapping[str, str], name: str, settings: Mapping[str, str]) -> Run:
    chosen = {**world, "experiment.exp_name": name, **settings}
    options = [part for key, value in chosen.items() for part in ("--set", f"{key}={value}")]
    run = Run(RunDir.at(Path(world["experiment.runs_dir"]) / name), [str(SWERL), "train", "--profile", "demo-cpu", *options])
    run.dir.root.parent.mkdir(parents=True, exist_ok=True)
    return run
