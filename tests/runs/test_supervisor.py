"""The supervisor with real processes: what it starts, what it survives, what it leaves. The programs are in standin.py."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from swerl.record.events import read_events
from swerl.record.metrics import read_metrics
from swerl.record.process import TOKEN_VARIABLE, owned_processes
from swerl.record.registry import Registry
from swerl.record.rundir import RunDir
from swerl.record.states import State
from swerl.runs.cleanup import token_of
from swerl.runs.stop import StopRequest, stop

STANDIN = Path(__file__).with_name("standin.py")
STEPS = 10
PATIENCE_S = 240.0  # of a test that would hang; a starved machine needs some of it


class Drive:
    """One ``swerl train`` of the stand-in run in ``root``."""

    def __init__(self, root, *, steps=STEPS, prefix=(), **environment):
        self.run = RunDir.at(root)
        self.since = time.time()
        self.process = subprocess.Popen(
            [*prefix, sys.executable, str(STANDIN), "drive", str(root), str(steps)],
            env={**os.environ, **{f"STANDIN_{name.upper()}": str(value) for name, value in environment.items()}},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait_for(self, kind, source="supervisor", **fields):
        """The first event of that kind since the start."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            for event in read_events(self.run.events_of(source)):
                if event["time"] >= self.since and event["kind"] == kind and fields.items() <= event.items():
                    return event
            if self.process.poll() is not None:
                raise AssertionError(f"ended before {kind}: {self.process.stdout.read()}")
            time.sleep(0.005)
        raise AssertionError(f"no {kind} within {PATIENCE_S} s")

    def wait_for_segment(self):
        """Until the supervisor has seen whose the stand-in's shared memory is, which takes it a tick."""
        deadline = time.monotonic() + PATIENCE_S
        while not self.run.leftovers.exists():
            assert time.monotonic() < deadline
            time.sleep(0.002)

    def end(self):
        output, _ = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, output

    def kill(self):
        self.process.kill()
        self.process.wait()

    @property
    def row(self):
        return Registry(self.run.registry).get(self.run.id)


def leftovers(run):
    return [seen for seen in owned_processes({TOKEN_VARIABLE: token_of(run)}, []) if seen.pid != os.getpid()]


def assert_clean(run):
    assert leftovers(run) == []
    assert not run.scratch.exists()
    assert not run.services.exists()
    assert Registry(run.registry).processes(run.id) == []
    if (run.root / "segment").exists():
        assert not Path("/dev/shm", (run.root / "segment").read_text()).exists()


def assert_complete(drive, steps=STEPS):
    assert drive.row.state == drive.row.recorded == State.COMPLETED
    assert [row.step for row in read_metrics(drive.run.metrics)] == list(range(1, steps + 1))
    assert len(drive.run.metrics.read_text().splitlines()) == steps
    assert_clean(drive.run)


@pytest.fixture
def root(tmp_path):
    """A run directory; whatever a failed test leaves is ended."""
    yield tmp_path / "runs" / "a"
    for run in map(RunDir.at, (tmp_path / "runs").glob("*/")):
        for seen in leftovers(run):
            os.kill(seen.pid, signal.SIGKILL)
        for name in (run.root / "segments").read_text().split() if (run.root / "segments").exists() else ():
            Path("/dev/shm", name).unlink(missing_ok=True)  # made in the last tenth of a second before a kill of everything


def test_a_run_completes_and_leaves_nothing_outside_its_directory(root):
    drive = Drive(root)
    code, output = drive.end()
    assert code == 0, output
    assert f"step {STEPS}/{STEPS}  reward 0.500" in output and "gateway is up" in output
    assert_complete(drive)
    assert drive.row.step == STEPS


BOUNDARIES = [
    ("supervisor", "run.running", {}),
    ("supervisor", "process.started", {"process": "gateway"}),
    ("supervisor", "process.ready", {"process": "gateway"}),
    ("supervisor", "process.started", {"process": "runner"}),
    ("supervisor", "process.ready", {"process": "runner"}),
    ("supervisor", "process.started", {"process": "trainer"}),
    ("trainer", "trainer.start", {}),
    ("trainer", "engine.ready", {}),
    ("trainer", "step.begin", {"step": 3}),
    ("trainer", "checkpoint.committed", {"step": 6}),
    ("supervisor", "process.ended", {"process": "trainer"}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("source", "kind", "fields"), BOUNDARIES, ids=[f"{k}-{'-'.join(map(str, f.values()))}" for _, k, f in BOUNDARIES])
def test_kill_9_of_the_supervisor_at_any_boundary_then_the_same_command(root, source, kind, fields):
    first = Drive(root)
    first.wait_for(kind, source, **fields)
    first.kill()
    assert first.row.state == State.INTERRUPTED, "what is true is read at once"
    second = Drive(root)
    code, output = second.end()
    assert code == 0, output
    assert_complete(second)
    assert second.row.attempt == 2


@pytest.mark.slow
def test_kill_9_before_there_is_a_row_or_while_stopping(root):
    first = Drive(root)
    while not RunDir.at(root).lock.exists():
        time.sleep(0.0005)
    first.kill()
    second = Drive(root, steps=1000)
    second.wait_for("engine.ready", "trainer")
    second.process.send_signal(signal.SIGINT)
    second.wait_for("run.stopping")
    second.kill()
    assert second.row.state == State.INTERRUPTED
    third = Drive(root)
    assert third.end()[0] == 0
    assert third.row.state == State.COMPLETED
    assert_clean(third.run)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gateway", "runner"])
def test_a_killed_service_is_started_again_and_the_run_goes_on(root, name):
    drive = Drive(root, steps=40)
    pid = drive.wait_for("process.ready", process=name) and drive.wait_for("process.started", process=name)["pid"]
    drive.wait_for("step.begin", "trainer", step=2)
    os.kill(pid, signal.SIGKILL)
    code, output = drive.end()
    assert code == 0, output
    assert f"{name} died (killed by SIGKILL" in output
    assert_complete(drive, 40)
    started = [e for e in read_events(drive.run.events_of("supervisor")) if e["kind"] == "process.started" and e["process"] == name]
    assert len(started) == 2


def test_a_killed_trainer_ends_the_run_as_failed_and_the_same_command_goes_on(root):
    first = Drive(root)
    pid = first.wait_for("process.started", process="trainer")["pid"]
    first.wait_for("step.begin", "trainer", step=5)
    os.kill(pid, signal.SIGKILL)
    code, output = first.end()
    assert (code, first.row.state) == (1, State.FAILED)
    assert "SWERL-R008" in output and "killed by SIGKILL (out of memory, or killed by hand)" in output
    assert_clean(first.run)
    second = Drive(root)
    code, output = second.end()
    assert code == 0 and "continues from the checkpoint of step " in output, output
    assert_complete(second)


def test_a_boot_that_says_nothing_is_an_alarm_with_the_stacks_of_its_processes(root):
    drive = Drive(root, quiet_s=1, boot_s=8, watch="{}")
    silent = drive.wait_for("boot.silent")
    alarm = drive.wait_for("alarm.raised", id="SWERL-W506")
    assert silent["stacks"] in alarm["message"]
    said = Path(silent["stacks"]).read_text()
    assert "standin.py" in said and "trainer" in said, "what the trainer waits in"
    code, output = drive.end()
    assert code == 0 and "SWERL-W506" in output, output
    assert_complete(drive)


def starts(run):
    return [e["pid"] for e in read_events(run.events_of("supervisor")) if e["kind"] == "process.started" and e["process"] == "trainer"]


@pytest.mark.parametrize("ends", ["says so", "without a word", "never"])
def test_a_trainer_that_lost_its_engine_is_started_again_and_the_services_stay(root, ends):
    """Whether it ends by itself or waits for an engine that will never answer: an event, an alarm with the cause, and on it goes."""
    more = {"says so": {}, "without a word": {"lost_code": 1}, "never": {"lost_hangs": 1, "engine_gone_s": 0.5}}[ends]
    drive = Drive(root, lost_at=5, restarts=3, watch="{}", **more)
    code, output = drive.end()
    assert code == 0, output
    assert_complete(drive)
    assert "the engine died (its server says that the engine is dead); 2 requests wait" in output
    assert "SWERL-W505" in output and "trainer died" in output and "starting it again from the newest checkpoint" in output
    supervisor = list(read_events(drive.run.events_of("supervisor")))
    assert len(starts(drive.run)) == 2
    assert [e["process"] for e in supervisor if e["kind"] == "process.started"] == ["gateway", "runner", "trainer", "trainer"]
    (raised,) = [e for e in supervisor if e["kind"] == "alarm.raised" and e["id"] == "SWERL-W505"]
    (died,) = [e for e in read_events(drive.run.events_of("trainer")) if e["kind"] == "engine.died"]
    assert raised["time"] - died["time"] < 10 and "a:1" in raised["message"]
    assert [e["id"] for e in supervisor if e["kind"] == "alarm.cleared"] == ["SWERL-W505"]


def test_a_killed_trainer_is_started_again_with_what_it_left_ended(root):
    drive = Drive(root, steps=40, restarts=1)
    drive.wait_for("checkpoint.committed", "trainer", step=3)
    (pid,) = starts(drive.run)
    before = {seen.pid for seen in leftovers(drive.run)}
    os.kill(pid, signal.SIGKILL)
    drive.wait_for("process.died", process="trainer")
    drive.wait_for("step.begin", "trainer", step=20)
    gateway = {e["pid"] for e in read_events(drive.run.events_of("supervisor")) if e["kind"] == "process.started"} - set(starts(drive.run))
    kept = {seen.pid for seen in leftovers(drive.run)} & before
    assert gateway <= kept, "gateway and runner live on"
    assert not {p for p in kept if b"time.sleep(300)" in _command_line(Path("/proc", str(p)))}, (
        "what the killed trainer had started is ended"
    )
    code, output = drive.end()
    assert code == 0, output
    assert_complete(drive, 40)


def test_a_trainer_that_gets_nowhere_is_not_started_for_ever(root):
    drive = Drive(root, lost_at=5, lost_times=99, restarts=2)
    code, output = drive.end()
    assert (code, drive.row.state) == (1, State.FAILED), output
    assert len(starts(drive.run)) == 3 and "SWERL-R008" in output
    assert_clean(drive.run)


def test_a_trainer_that_fails_is_quoted_from_its_log(root):
    drive = Drive(root, fail_at=4, restarts=3)
    code, output = drive.end()
    assert (code, drive.row.state) == (1, State.FAILED)
    assert len(starts(drive.run)) == 1, "an error of its own would come again"
    assert "SWERL-R008" in output and 'its log says first: "MemoryError: no room for the optimizer"' in output
    assert f"{drive.run.trainer_log}:" in drive.row.problem
    assert_clean(drive.run)
    code, _ = Drive(root, fail_at=4).end()
    assert code == 1
    code, _ = Drive(root).end()
    assert code == 0
    assert_complete(drive)


def test_a_trainer_that_trains_nothing_is_a_failure(root):
    drive = Drive(root, trains_nothing=1)
    code, output = drive.end()
    assert (code, drive.row.state) == (1, State.FAILED)
    assert "SWERL-R009" in output and "trained no step" in output


def test_a_service_that_cannot_start_ends_the_run_at_once(root):
    drive = Drive(root, broken="runner")
    code, output = drive.end()
    assert (code, drive.row.state) == (1, State.FAILED)
    assert "SWERL-R012" in output and "RuntimeError: runner has no such port" in output
    assert_clean(drive.run)


@pytest.mark.slow
def test_a_service_that_keeps_dying_ends_the_run(root):
    drive = Drive(root, steps=10_000)
    for _ in range(3):
        pid = drive.wait_for("process.ready", process="gateway") and drive.wait_for("process.started", process="gateway")["pid"]
        drive.since = time.time()
        os.kill(pid, signal.SIGKILL)
    code, output = drive.end()
    assert (code, drive.row.state) == (1, State.FAILED)
    assert "SWERL-R014" in output and "gateway died 3 times" in output
    assert_clean(drive.run)


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_stops_in_order_and_the_same_command_goes_on(root, signum):
    first = Drive(root, steps=1000)
    first.wait_for("checkpoint.committed", "trainer", step=3)
    first.process.send_signal(signum)
    code, output = first.end()
    assert (code, first.row.state) == (130, State.INTERRUPTED), output
    assert "stopping now" in output
    assert_clean(first.run)
    second = Drive(root)
    code, output = second.end()
    assert code == 0 and "continues from the checkpoint" in output
    assert second.row.state == State.COMPLETED


def test_stop_waits_until_the_trainer_has_saved(root):
    drive = Drive(root, steps=1000)
    drive.wait_for("step.begin", "trainer", step=2)
    run = stop(drive.run, Registry(drive.run.registry), StopRequest("drain"), timeout_s=PATIENCE_S)
    code, output = drive.end()
    assert (code, run.state, drive.row.state) == (0, State.INTERRUPTED, State.INTERRUPTED), output
    last = read_metrics(drive.run.metrics)[-1].step
    assert (drive.run.checkpoints / "newest").read_text() == str(last)
    assert not drive.run.stop_request.exists()
    assert_clean(drive.run)


def test_stop_of_a_killed_run_ends_what_it_left(root):
    drive = Drive(root, steps=1000)
    drive.wait_for_segment()
    drive.kill()
    assert leftovers(drive.run), "the deaf ones outlive their supervisor"
    assert stop(drive.run, Registry(drive.run.registry), StopRequest("drain")).recorded == State.INTERRUPTED
    assert_clean(drive.run)


def test_a_second_supervisor_is_refused_and_disturbs_nothing(root):
    first = Drive(root, steps=40)
    first.wait_for("engine.ready", "trainer")
    code, output = Drive(root).end()
    assert code == 1 and "SWERL-R006" in output and f"pid {first.process.pid} " in output
    assert first.end()[0] == 0
    assert_complete(first, 40)


@pytest.mark.slow
def test_two_runs_side_by_side_do_not_touch_each_other(root):
    other = Drive(root.with_name("b"), steps=150)
    other.wait_for("engine.ready", "trainer")
    mine = Drive(root, steps=1000)
    mine.wait_for_segment()
    before = {seen.ref for seen in leftovers(other.run)}
    segment = Path("/dev/shm", (other.run.root / "segment").read_text())
    mine.kill()
    stop(mine.run, Registry(mine.run.registry), StopRequest("now"))
    assert_clean(mine.run)
    assert {seen.ref for seen in leftovers(other.run)} == before
    assert segment.exists() and other.run.scratch.exists()
    assert other.end()[0] == 0
    assert_complete(other, 150)


def test_a_full_disk_is_named_and_leaves_no_process(tmp_path, root):
    """The run directory on a file system of its own with little room, in a mount namespace of this test."""
    disk = tmp_path / "runs"
    disk.mkdir()
    script = f'mount -t tmpfs -o size=512k none "{disk}" && mkdir "{root}" && head -c 380k /dev/zero > "{disk}/fill" && exec "$@"'
    drive = Drive(root, steps=20_000, prefix=("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"))
    code, output = drive.end()
    assert (code == 1 and "No space left on device" in output) or "disk is full" in output, output
    assert [pid for pid in Path("/proc").iterdir() if pid.name.isdecimal() and str(root).encode() in _command_line(pid)] == []


def _command_line(pid):
    try:
        return (pid / "cmdline").read_bytes()
    except OSError:
        return b""
