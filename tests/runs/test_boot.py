"""A boot that hangs is told of once, with the stacks of its processes; one that goes on is not."""

import subprocess
import sys
import time

import pytest

from swerl.record.process import look
from swerl.record.registry import Registry
from swerl.runs import boot
from swerl.runs.boot import BootWatch
from swerl.runs.children import Child
from swerl.runs.plan import ProcessSpec


@pytest.fixture
def waiting(tmp_path):
    """A process that sleeps in a function with a name, and a log of an earlier start."""
    log = tmp_path / "trainer.log"
    log.write_text("of an earlier start\n")
    code = "import time\ndef waits_for_a_worker():\n    time.sleep(300)\nwaits_for_a_worker()"
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        while b"-c" not in open(f"/proc/{process.pid}/cmdline", "rb").read():  # noqa: PTH123, SIM115
            time.sleep(0.01)
        time.sleep(0.3)
        yield Child(ProcessSpec("trainer", ("python",), log), look(process.pid).ref, log.stat().st_size)
        process.kill()


def watch_of(tmp_path, child, told):
    """It asks for processes as in a run, where the registry answers one thread alone."""
    registry = Registry(tmp_path / "registry.sqlite")

    def processes():
        assert registry.processes("a-run") == []
        return [look(child.ref.pid)]

    return BootWatch(tmp_path, lambda kind, **fields: told.append((kind, fields)), processes)


def say(child, line):
    with child.spec.log.open("a") as log:
        log.write(line + "\n")


def until_told(told, count):
    deadline = time.monotonic() + 60
    while len(told) < count and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(told) == count


def test_silence_and_repetition_are_told_once_within_three_minutes_and_news_begins_anew(tmp_path, waiting):
    told = []
    watch = watch_of(tmp_path, waiting, told)
    say(waiting, "loading shard 1 of 8")
    for second in range(0, 180, 5):
        say(waiting, f"(pid={second}) waited for a worker for {second} s")  # the same again and again
        watch.attend(waiting, False, 1000.0 + second)
    until_told(told, 1)
    kind, event = told[0]
    assert kind == "boot.silent" and 150 <= event["quiet_s"] <= 160
    assert event["lines"][-1].startswith("waited for a worker for ") and not any("earlier" in line for line in event["lines"][-7:])
    text = open(event["stacks"]).read()  # noqa: PTH123, SIM115
    assert f"pid {waiting.ref.pid}" in text and "waits_for_a_worker" in text
    say(waiting, "the worker is there")
    for second in range(180, 320, 5):
        watch.attend(waiting, False, 1000.0 + second)
    assert len(told) == 1
    for second in range(320, 340, 5):
        watch.attend(waiting, False, 1000.0 + second)
    until_told(told, 2)


@pytest.mark.parametrize("how", ["it speaks", "its engine is up", "it is another start each time"])
def test_a_boot_that_goes_on_is_not_told_of(tmp_path, waiting, how):
    told = []
    watch = watch_of(tmp_path, waiting, told)
    for number, second in enumerate(range(0, 600, 5)):
        if how == "it speaks" and number % 10 == 0:
            say(waiting, f"{'abcdefghijklmnopqrstuvwxyz'[number // 10]} is done")
        if how == "it is another start each time" and number % 20 == 0:
            watch._of = None
        watch.attend(waiting, how == "its engine is up", 1000.0 + second)
    time.sleep(0.2)
    assert not told


def test_without_py_spy_the_kernel_is_asked(waiting, monkeypatch):
    monkeypatch.setattr(boot.sys, "executable", "/nowhere/bin/python")
    assert "waits in" in boot.stacks(look(waiting.ref.pid))
