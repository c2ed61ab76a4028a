"""Watching a run from a terminal: until it is over, in place or line by line, and never at more than its share of a processor."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from swerl.cli import run as swerl_run
from swerl.record.process import this_process
from swerl.record.registry import Registry
from swerl.record.rundir import RunDir
from swerl.record.states import State
from swerl.runs.status import status_of
from swerl.runs.watching import screen, watch


@pytest.fixture
def running(tmp_path: Path):
    run = RunDir.at(tmp_path / "runs" / "r")
    run.create()
    run.manifest.write_text("{}")
    registry = Registry(run.registry)
    registry.prepare("r", "0" * 64)
    registry.begin("r", this_process(), 4)
    yield run, registry
    registry.close()


def test_it_looks_until_the_run_is_over(running):
    run, registry = running
    shown: list[str] = []
    naps: list[float] = []

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            registry.move("r", State.COMPLETED, exit_code=0)

    ended = watch(lambda: status_of(run, registry), shown.append, 3.0, sleep)
    assert ended.run.state == State.COMPLETED and len(shown) == 4 and "completed" in shown[-1]
    assert all(nap >= 3.0 for nap in naps)


def test_without_a_terminal_only_what_changed_is_said():
    stream = io.StringIO()
    _, show = screen(stream)
    for text in ("a", "a", "b"):
        show(text)
    assert stream.getvalue() == "a\n\nb\n\n"


def test_verb_ends_with_the_run(running, capsys: pytest.CaptureFixture[str]):
    run, registry = running
    registry.move("r", State.COMPLETED, exit_code=0)
    assert swerl_run(["status", "r", "--runs-dir", str(run.root.parent), "--watch"]) == 0
    assert "run r: completed" in capsys.readouterr().out
