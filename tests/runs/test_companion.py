"""The dashboard beside a run: up while the run is, gone with it, and harmless where it cannot be had."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from swerl.record.process import TOKEN_VARIABLE
from swerl.record.rundir import RunDir
from swerl.runs.companion import NICE, dashboard


def config(port: int, on: bool = True) -> SimpleNamespace:
    return SimpleNamespace(experiment=SimpleNamespace(dashboard=on, dashboard_port=port))


def address(said: list[str]) -> str:
    [line] = [line for line in said if line.startswith("dashboard http")]
    return line.split()[1].partition("#")[0]


def our_children() -> list[psutil.Process]:
    """Children of this process that are dashboards. Other tests may have left a child that has ended and that nobody has waited for."""
    alive = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in alive if "dashboard" in child.cmdline()]


def test_it_serves_while_the_run_lasts(tmp_path: Path):
    said: list[str] = []
    with dashboard(config(0), RunDir.at(tmp_path / "runs" / "r"), said.append, tmp_path / "artifacts"):
        url = address(said)
        assert url.startswith("http://127.0.0.1:"), "the loopback address only"
        with urllib.request.urlopen(url + "api/runs", timeout=60) as answer:  # the socket listens before the process does
            assert answer.read() == b"[]"
        [child] = our_children()
        assert child.nice() == min(19, os.nice(0) + NICE) and TOKEN_VARIABLE not in child.environ() and os.getsid(child.pid) == child.pid
        assert Path(f"/proc/{child.pid}/oom_score_adj").read_text().strip() == "1000"
    assert not our_children() and not (tmp_path / "runs" / "r").exists()


def test_off_is_off(tmp_path: Path):
    said: list[str] = []
    with dashboard(config(0, on=False), RunDir.at(tmp_path / "r"), said.append, tmp_path / "artifacts"):
        assert not our_children() and not said


def test_a_taken_port_gives_the_next_one(tmp_path: Path):
    said: list[str] = []
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        if port > 65_000:
            pytest.skip("the system gave a port at the end of the range")
        with dashboard(config(port), RunDir.at(tmp_path / "runs" / "r"), said.append, tmp_path / "artifacts"):
            assert not address(said).endswith(f":{port}/")


def test_what_cannot_be_had_is_told_and_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    said: list[str] = []
    (tmp_path / "file").write_text("")
    with dashboard(config(0), RunDir.at(tmp_path / "file" / "r"), said.append, tmp_path / "artifacts"):
        said.append("the run")
    assert said[0].startswith("no dashboard: ") and said[1] == "the run"


def test_it_does_not_outlive_a_killed_parent(tmp_path: Path):
    code = (
        "import sys, time; from types import SimpleNamespace as N; from pathlib import Path; from swerl.runs.companion import dashboard\n"
        "from swerl.record.rundir import RunDir\n"
        "c = N(experiment=N(dashboard=True, dashboard_port=0))\n"
        f"with dashboard(c, RunDir.at({str(tmp_path / 'runs' / 'r')!r}), lambda text: print(text, flush=True)): time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    url = parent.stdout.readline().split()[1].partition("#")[0]
    urllib.request.urlopen(url, timeout=60).close()
    [child] = psutil.Process(parent.pid).children()
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 60
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_train_brings_it_and_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    from swerl.cli import train
    from swerl.record.states import State
    from swerl.runs import launch
    from swerl.runs.supervisor import Outcome

    seen: list[int] = []

    def launched(config, display, *, seal, fresh, notice):
        seen.append(len(our_children()))
        (config.run_dir / "wandb" / "offline-run-20260101_000000-abcd1234").mkdir(parents=True)
        return SimpleNamespace(state=State.COMPLETED, step=4, total_steps=4), Outcome(State.COMPLETED)

    monkeypatch.setattr(launch, "launch", launched)
    run_dir = tmp_path / "runs" / "r"
    settings = SimpleNamespace(
        run_dir=run_dir, experiment=config(0).experiment, environment=SimpleNamespace(venv_path=Path("/environment"))
    )
    assert train.carry_out(settings, fresh=False) == 0
    said = capsys.readouterr().out
    assert seen == [1] and not our_children()
    assert "dashboard http://127.0.0.1:" in said
    assert f"/environment/bin/wandb sync {run_dir}/wandb/offline-run-20260101_000000-abcd1234" in said
