"""Tasks and hosts set aside: when, for how long, over runners and starts of the run, and what comes back."""

import asyncio
import os
import signal
from dataclasses import replace

import pytest
from trialkit import FIX, FakeGateway, ask, make_task, request_for, runner_process, script, settings_for

from swerl.record.events import EventLog, read_events
from swerl.record.model import Identity, TrialResult
from swerl.record.outcomes import Outcome
from swerl.record.quarantined import Quarantined, quarantined
from swerl.record.trial_journal import Journal, read
from swerl.trials.quarantine import AFTER, Quarantine


class Scene:
    """A run's journal and events, and one runner's quarantine after the other."""

    def __init__(self, place):
        self.path, self.events = place / "journal.jsonl", EventLog(place / "events.jsonl", "runner")
        self.journal = None
        self.start()

    def start(self, run_attempt=1, retry_tasks=False):
        if self.journal is not None:
            self.journal.close()
        self.journal = Journal(self.path)
        self.kept = Quarantine(self.journal, self.events, run_attempt, retry_tasks)
        self.events.emit("runner.started", quarantined=self.kept.tasks, quarantined_hosts=self.kept.hosts)
        return self.kept

    def fail(self, task, host=None, times=AFTER, name=None, alone=True):
        """``alone``: something else works meanwhile."""
        for number in range(times):
            self.kept.failed(task, name or task, host, f"no such file {number}")
            if alone and not number:
                self.kept.good("another", None)

    def told(self):
        return [event for event in read_events(self.events.path) if event["kind"] != "runner.started"]

    def listed(self):
        return {(entry.what, entry.name) for entry in quarantined(read_events(self.events.path))}


@pytest.fixture
def scene(tmp_path):
    return Scene(tmp_path)


def test_a_task_that_only_fails_is_set_aside(scene):
    kept = scene.kept
    kept.good("fine", None)
    for number in range(AFTER):
        assert not kept.holds("bad")
        kept.failed("bad", "the-bad-one", None, f"no such file {number}")
        kept.failed("fine", "fine", None, "")
    assert kept.holds("bad") and not kept.holds("fine")
    assert kept.tasks == {"the-bad-one": "no such file 0"} and kept.hosts == {} and kept.why("bad") == "no such file 0"
    assert [(event["task"], event["task_hash"], event["error"]) for event in scene.told()] == [("the-bad-one", "bad", "no such file 0")]


def test_a_host_on_which_everything_fails_is_set_aside_while_another_works(scene):
    kept = scene.kept
    for task in ("a", "b", "c"):
        kept.good(task, "n1")
        kept.good(task, "n2")
    for number in range(AFTER - 1):
        kept.failed("abc"[number], "", "n1", f"disk {number}")
    kept.good("a", "n1")  # the row is broken
    for number in range(AFTER):
        assert kept.hosts == {}
        kept.failed("abc"[number % 3], "", "n1", f"disk {number}")
    assert kept.hosts == {"n1": "disk 0"} and kept.tasks == {}
    for number in range(2 * AFTER):  # the last host that works is never given up
        kept.failed("abc"[number % 3], "", "n2", "too")
    assert list(kept.hosts) == ["n1"]


def test_one_bad_task_does_not_condemn_its_host(scene):
    scene.kept.good("fine", "n2")
    scene.fail("bad", "n1")
    assert scene.kept.hosts == {} and scene.kept.holds("bad")


def test_the_next_runner_and_a_resumed_run_keep_a_task(scene):
    scene.fail("bad")
    scene.fail("worse")
    for run_attempt in (1, 1, 2, 3):
        assert scene.start(run_attempt).tasks == {"bad": "no such file 0", "worse": "no such file 0"}
        assert scene.listed() == {("task", "bad"), ("task", "worse")}
    scene.fail("bad")  # trials that were under way change nothing
    assert len([line for line in read(scene.path) if line["kind"] == "set_aside"]) == 2


def test_what_failed_with_everything_else_is_tried_again(scene):
    scene.kept.good("earlier", None)
    scene.fail("a", alone=False)
    scene.fail("b", alone=False)
    assert set(scene.kept.tasks) == {"a", "b"}  # here and now, they are not tried
    scene.start()
    assert scene.kept.tasks == {} and scene.listed() == set()
    scene.fail("a", alone=False)
    scene.fail("b", alone=False)
    scene.kept.good("b", None)  # it was under way; now a's failures are its own
    assert set(scene.kept.tasks) == {"a"} and scene.listed() == {("task", "a")}
    assert set(scene.start().tasks) == {"a"}


def test_a_task_that_has_worked_before_the_restart_is_not_set_aside(scene):
    worked = TrialResult(Identity("train", "fine", 0, "a:1"), "t", Outcome.COMPLETED, True, True, 0.0)
    scene.journal.settle(worked)
    scene.journal.settle(replace(worked, identity=Identity("train", "cut", 0, "a:1"), outcome=Outcome.TAIL_KILLED, graded=False))
    scene.start()
    scene.fail("fine")
    scene.fail("cut")
    assert list(scene.kept.tasks) == ["cut"]


def test_other_content_brings_a_task_back(scene):
    scene.fail("sha256:old", name="task")
    scene.kept.asked("sha256:new", "task")  # another directory of that name in this runner's index
    assert scene.kept.holds("sha256:old") and not scene.kept.holds("sha256:new")
    scene.start(2).asked("sha256:old", "task")
    assert scene.kept.holds("sha256:old")
    scene.kept.asked("sha256:new", "task")
    assert scene.kept.tasks == {} and scene.listed() == set() and not scene.kept.holds("sha256:old")
    assert (scene.told()[-1]["kind"], scene.told()[-1]["why"]) == ("task.released", "its content has changed")
    assert scene.start(2).tasks == {}


def test_a_start_of_the_run_brings_hosts_back_and_tasks_if_asked(scene):
    scene.kept.good("a", "n2")
    scene.fail("a", "n1", times=1)
    scene.fail("bad", "n1")
    assert scene.kept.hosts == {"n1": "no such file 0"}
    assert scene.start(1, retry_tasks=True).hosts == {"n1": "no such file 0"}  # a runner that died is no start of the run
    assert list(scene.kept.tasks) == ["bad"] and scene.listed() == {("task", "bad"), ("host", "n1")}
    scene.start(2)
    assert (list(scene.kept.tasks), scene.kept.hosts, scene.listed()) == (["bad"], {}, {("task", "bad")})
    scene.start(3, retry_tasks=True)
    assert (scene.kept.tasks, scene.kept.hosts, scene.listed()) == ({}, {}, set())
    scene.fail("bad")
    assert list(scene.start(3, retry_tasks=True).tasks) == ["bad"]  # set aside in this start


def test_the_list_of_events():
    events = [
        {"kind": "task.quarantined", "task": "t1", "error": "no such image"},
        {"kind": "trial.failed", "error": "x"},
        {"kind": "host.quarantined", "host": "n1", "error": "disk full"},
        {"kind": "task.quarantined", "task": "t2", "error": "y"},
        {"kind": "task.released", "task": "t2", "why": "z"},
    ]
    both = (Quarantined("task", "t1", "no such image"), Quarantined("host", "n1", "disk full"))
    assert quarantined(events) == both
    assert quarantined([*events, {"kind": "runner.started", "quarantined": {"t1": "e"}, "quarantined_hosts": {}}]) == both[:1]


@pytest.mark.trials
@pytest.mark.slow
def test_a_killed_runner_forgets_nothing(tmp_path):
    """The real service, killed with SIGKILL: its successor runs no trial of the task, until the task is another."""
    good, bad = make_task(tmp_path, "good"), make_task(tmp_path, "bad")
    (bad / "task.toml").write_text((good / "task.toml").read_text().replace('docker_image = "swerl/host"\n', ""))
    (bad / "environment" / "Dockerfile").write_text("FROM scratch\nRUN exit 7\n")
    (tmp_path / "run").mkdir()
    settings = settings_for(tmp_path / "run", max_attempts=1)
    started = []

    def attempts():
        return sum(line["kind"] == "attempt" for line in read(settings.journal_path))

    async def main():
        gateway = await FakeGateway(settings.services_path, script(FIX)).start()
        process = runner_process(settings)

        def again(changed):
            nonlocal process
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            process = runner_process(changed)
            started.append(list(read_events(settings.events_path))[-1]["quarantined"])

        try:
            for sample in range(AFTER):
                failed = await ask(settings, request_for(bad, sample=sample))
                assert failed["outcome"] == "env_failed" and failed["trial_name"], failed
                assert (await ask(settings, request_for(good, sample=sample)))["reward"] == 1.0
            for changed in (settings, replace(settings, run_attempt=2)):
                again(changed)
                before = attempts()
                refused = await ask(settings, request_for(bad, sample=9))
                assert refused["outcome"] == "env_failed" and "task bad is quarantined" in refused["error"] and attempts() == before
            again(replace(settings, run_attempt=3, retry_quarantined=True))
            assert (await ask(settings, request_for(bad, sample=10)))["trial_name"]
            (bad / "environment" / "Dockerfile").write_text("FROM scratch\nWORKDIR /app\nCOPY calc.py .\n")
            mended = request_for(bad)
            mended = replace(mended, identity=replace(mended.identity, task_hash="sha256:mended"))
            came_back = await ask(settings, mended)
            assert came_back["reward"] == 1.0, came_back["error"]
        finally:
            process.terminate()
            process.wait(30)
            await gateway.stop()

    asyncio.run(main())
    assert [list(names) for names in started] == [["bad"], ["bad"], []]
    assert quarantined(read_events(settings.events_path)) == ()
