"""A whole evaluation on the scripted engine, and somebody who kills a part of it the moment a trial enters a phase.

Supervisor, gateway, runner and driver are the real ones. ``python crashkit.py RUN_CONFIG`` is the same command in a process of its own, for
kills of the whole tree.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "evaluate"))
import evalkit

from swerl.cli.evaluate import derived
from swerl.cli.options import Chosen
from swerl.evaluate import launch
from swerl.evaluate.order import Order, sha256
from swerl.record.process import TOKEN_VARIABLE
from swerl.record.rundir import RunDir, read_json
from swerl.record.trial_journal import read as read_journal
from swerl.runs import cleanup
from swerl.runs.display import PlainDisplay
from swerl.runs.plan import Plan, ProcessSpec
from swerl.trials.sandboxes import limits
from swerl.trials.settings import run_tag

ROOT = Path(__file__).resolve().parents[2]
PHASES = ("started", "setup", "agent", "grading", "verifier", "settled")


class Scene:
    """One evaluation of four tasks, three samples each, in ``place``; ``more`` are keys of the configuration besides."""

    def __init__(self, place: Path, more: dict[str, Any] | None = None):
        self.place = place
        self.policy = evalkit.make_policy(place / "policy") if not (place / "policy").exists() else place / "policy"
        tasks = place / "tasks" / "index.parquet"
        if not tasks.exists():
            evalkit.make_tasks(place / "tasks", ["easy-one", "easy-two", "easy-three", "hard-four"])
        port = place / "port"
        if not port.exists():
            port.write_text(str(launch.free_port()))
        values = {
            "experiment.runs_dir": place / "runs",
            "experiment.exp_name": "crash",
            "data.data_dir": place / "tasks",
            "data.train_index": tasks,
            "data.val_index": tasks,
            "model.model_path": self.policy,
            "infrastructure.litellm_port": port.read_text(),
            "harbor_runtime.num_workers": 4,
            "training.max_prompt_length": 400,
            "vllm.max_model_length": 2000,
            "training.max_response_length": 1500,
            **(more or {}),
        }
        chosen = Chosen(ROOT / "config.yaml", "demo-cpu", {key: str(value) for key, value in values.items()})
        self.config = derived(chosen, chosen.load(), "eval", "crash.eval", tasks, {})
        self.run = RunDir.at(self.config.run_dir)
        self.order = Order("eval", str(self.policy), "hf-test:0", str(tasks), sha256(tasks), 0, 3, engine_port=launch.free_port())

    def plan(self, config: Any, run: RunDir, asked: Order) -> Plan:
        real = launch.plan_for(config, run, asked)
        engine, *others = real.services
        argv = (sys.executable, evalkit.__file__, "vllm", str(run.root), str(self.policy))
        stand_in = ProcessSpec("engine", argv, engine.log, {"STANDIN_DELAY_S": "0.3"}, url_key="url", health_path="/health")
        return replace(real, services=(stand_in, *others), max_restarts=100)

    def carry_out(self) -> tuple[Any, dict[str, Any] | None]:
        return launch.evaluate(self.config, self.order, lambda: PlainDisplay(sys.stdout), plan=self.plan)

    def pid_of(self, service: str) -> int:
        return read_json(self.run.services)[service]["pid"]

    # What must hold afterwards

    def settled(self) -> list[dict[str, Any]]:
        return [line["result"] for line in read_journal(self.run.trials_journal) if line["kind"] == "settled"]

    def check(self, found: dict[str, Any], failed_before: int = 0) -> None:
        """Everything once, every verdict right, nothing left. ``failed_before``: trials that the infrastructure had failed, which a resume
        does again."""
        rate = found["resolve_rate"]
        assert (rate["resolved"], rate["graded"], rate["expected"]) == (9, 12, 12), found
        results = [r for r in self.settled() if r["graded"]]
        assert len(self.settled()) - len(results) == failed_before
        keys = [(r["identity"]["task_hash"], r["identity"]["sample"]) for r in results]
        assert len(keys) == len(set(keys)) == 12, "a finished trial was lost or counted twice"
        assert found["infrastructure_failures"]["trials"] == 0
        self.check_nothing_left()

    def check_nothing_left(self, within_s: float = 30.0) -> None:
        until = time.monotonic() + within_s
        while (left := self.left()) and time.monotonic() < until:
            time.sleep(0.1)
        assert not left, left

    def left(self) -> list[str]:
        """Processes of the run, processes and control groups of its sandboxes, mounts below its directory."""
        tag, token = run_tag(self.run.root), cleanup.token_of(self.run)
        found = []
        for process in psutil.process_iter():
            try:
                if process.cmdline()[-1:] == [tag] or process.environ().get(TOKEN_VARIABLE) == token:
                    found.append(f"process {process.pid} {' '.join(process.cmdline())[:80]}")
            except (psutil.Error, OSError):
                continue
        found += [f"group {group}" for root in limits.group_root(tag) if root.exists() for group in root.iterdir() if group.is_dir()]
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        return found + [f"mount {line.split()[4]}" for line in mounts if str(self.place) in line]


class Killer(threading.Thread):
    """Kills ``victim`` once at each phase, in order, whichever trial comes to it, and times the way back to the next phase of any trial."""

    def __init__(self, scene: Scene, victim: str, phases: tuple[str, ...] = PHASES):
        super().__init__(daemon=True)
        self.scene, self.victim, self.left = scene, victim, list(phases)
        self.back_s: dict[str, float] = {}
        self.over = threading.Event()

    def run(self) -> None:
        after = time.time()
        while self.left and not self.over.is_set():
            event = self._next(after, self.left[0])
            if event is None:
                time.sleep(0.005)
                continue
            os.kill(self.scene.pid_of(self.victim), signal.SIGKILL)
            killed, phase = time.time(), self.left.pop(0)
            while (event := self._next(killed + 0.2, None)) is None and not self.over.is_set():
                time.sleep(0.02)
            if event is not None:
                self.back_s[phase] = event["time"] - killed
                after = event["time"]

    def _next(self, after: float, phase: str | None) -> dict[str, Any] | None:
        """The first event of a trial after ``after`` that begins ``phase`` (any, for None)."""
        try:
            lines = self.scene.run.events_of("runner").read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return None
        for line in lines:
            if not line.endswith(b"\n"):
                break  # it is being written
            name = phase_of(event := orjson.loads(line))
            if name and event["time"] > after and phase in (None, name):
                return event
        return None


def phase_of(event: dict[str, Any]) -> str | None:
    kind = event["kind"]
    if kind == "trial.phase":
        return event["phase"]
    return kind.removeprefix("trial.") if kind in ("trial.started", "trial.settled") else None


def kill_tree(scene: Scene, phase: str) -> None:
    """Start the command in a process of its own, and kill it with all its descendants at once when a trial enters ``phase``."""
    command = [sys.executable, __file__, str(scene.place)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        waiting = Killer(scene, "", (phase,))
        began = time.time()
        while waiting._next(began, phase) is None:
            if process.poll() is not None:
                raise AssertionError(f"it ended by itself with {process.returncode}")
            time.sleep(0.005)
        top = psutil.Process(process.pid)
        family = [top, *top.children(recursive=True)]
        for member in family:
            try:
                member.kill()
            except psutil.NoSuchProcess:
                continue
        process.wait(30)


def through(scene: Scene, killer: Killer) -> dict[str, Any]:
    killer.start()
    try:
        outcome, found = scene.carry_out()
    finally:
        killer.over.set()
        killer.join(30)
    assert found is not None, outcome
    return found


if __name__ == "__main__":
    scene: Scene = Scene(Path(sys.argv[1]))
    print(json.dumps(scene.carry_out()[1]))
