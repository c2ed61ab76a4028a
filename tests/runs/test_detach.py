"""A run that goes on without its terminal, and the verb that shows what it prints."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from click.testing import CliRunner

from swerl.cli.logs import logs
from swerl.record.registry import Registry
from swerl.record.rundir import RunDir
from swerl.record.states import State
from swerl.runs.detach import detach

STANDIN = Path(__file__).with_name("standin.py")
PATIENCE_S = 240.0
LAUNCHER = """
import sys
from swerl.runs.detach import detach
from swerl.record.rundir import RunDir
run = RunDir.at(sys.argv[1])
print(detach([sys.executable, sys.argv[2], "drive", sys.argv[1], sys.argv[3]], run, lambda line: print("said", line)), flush=True)
"""


def row(run: RunDir):
    registry = Registry(run.registry)
    try:
        return registry.get(run.id)
    finally:
        registry.close()


def wait_for_end(run: RunDir) -> State:
    deadline = time.monotonic() + PATIENCE_S
    while row(run).state not in (State.COMPLETED, State.FAILED, State.INTERRUPTED):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return row(run).state


def test_a_detached_run_survives_its_shell(tmp_path):
    """The shell that started it is killed with its whole session as soon as the run is supervised, as a lost connection does it."""
    run = RunDir.at(tmp_path / "runs" / "a")
    shell = subprocess.Popen(
        ["bash", "-c", f"{sys.executable} -c '{LAUNCHER}' {run.root} {STANDIN} 200; sleep 600"],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert shell.stdout is not None
    line = next(text for text in shell.stdout if text.startswith("Detached"))
    assert "code=None" in line and row(run).state == State.RUNNING
    os.killpg(shell.pid, signal.SIGHUP)
    os.killpg(shell.pid, signal.SIGKILL)
    shell.wait()
    assert wait_for_end(run) == State.COMPLETED and row(run).step == 200
    assert "step 200/200" in run.console.read_text()
    shown = CliRunner().invoke(logs, ["a", "--runs-dir", str(run.root.parent), "--process", "supervisor", "-n", "3"], standalone_mode=False)
    assert "step 200/200" in shown.output and str(run.console) in shown.output and len(shown.output.splitlines()) == 5


def test_what_is_refused_is_said_where_it_was_asked_for(tmp_path):
    run = RunDir.at(tmp_path / "runs" / "a")
    said: list[str] = []
    ended = detach([sys.executable, "-c", "print('no such model'); raise SystemExit(1)"], run, said.append)
    assert ended.code == 1 and said == ["no such model"]


def test_two_detached_runs_at_once_do_not_meet(tmp_path):
    runs = [RunDir.at(tmp_path / "runs" / name) for name in ("a", "b")]
    for run in runs:
        assert detach([sys.executable, str(STANDIN), "drive", str(run.root), "60"], run, lambda line: None).code is None
    assert [wait_for_end(run) for run in runs] == [State.COMPLETED, State.COMPLETED]
    assert runs[0].scratch != runs[1].scratch and not any(run.scratch.exists() for run in runs)
