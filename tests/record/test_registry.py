"""The registry against a model of itself, and against processes that die."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from swerl.errors import SwerlError
from swerl.record.process import ProcessRef, boot_id, look, this_process
from swerl.record.registry import Registry
from swerl.record.states import LIVE, NEXT, State, effective

DEAD = ProcessRef(1, 1, "an earlier boot")


def test_states_form_a_closed_table():
    assert set(NEXT) == set(State)
    for state in State:
        assert effective(state, True) == state
        assert (effective(state, False) == state) == (state not in LIVE)
        assert State.RUNNING in NEXT[effective(state, False)], "whatever a kill leaves can run again"


def test_a_run_whose_supervisor_was_killed_reads_as_interrupted(tmp_path):
    registry = Registry(tmp_path / "registry.sqlite")
    process = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
    registry.prepare("a", "digest")
    run = registry.begin("a", look(process.pid).ref, total_steps=3)
    assert (run.state, run.attempt) == (State.RUNNING, 1)
    process.kill()
    process.wait()
    run = Registry(tmp_path / "registry.sqlite").get("a")
    assert (run.recorded, run.state) == (State.RUNNING, State.INTERRUPTED)
    assert registry.settle("a").recorded == State.INTERRUPTED
    registry.prepare("a", "digest")
    assert registry.begin("a", this_process(), None).attempt == 2


def test_a_living_run_is_not_prepared_again(tmp_path):
    registry = Registry(tmp_path / "registry.sqlite")
    registry.prepare("a", "digest")
    registry.begin("a", this_process(), None)
    with pytest.raises(SwerlError, match="SWERL-R005"):
        registry.prepare("a", "digest")
    assert registry.get("a").state == State.RUNNING


def test_processes_stay_listed_until_their_end_is_recorded(tmp_path):
    registry = Registry(tmp_path / "registry.sqlite")
    registry.prepare("a", "digest")
    one, two = ProcessRef(10, 100, boot_id()), ProcessRef(10, 200, boot_id())
    registry.started("a", "gateway", one)
    registry.started("a", "gateway", two)
    registry.ended("a", one)
    assert [(p.name, p.ref) for p in registry.processes("a")] == [("gateway", two)]
    registry.rename("a", "a~1")
    assert registry.get("a") is None and len(registry.processes("a~1")) == 1
    registry.forget("a~1")
    assert registry.processes("a~1") == []


def test_a_file_that_is_no_database_is_named(tmp_path):
    (tmp_path / "registry.sqlite").write_text("not a database, but long enough to be read as one " * 20)
    with pytest.raises(SwerlError, match="SWERL-R004"):
        Registry(tmp_path / "registry.sqlite")


def test_a_write_that_fails_changes_nothing(tmp_path):
    registry = Registry(tmp_path / "registry.sqlite")
    registry.prepare("a", "digest")
    registry.begin("a", this_process(), None)
    before = registry.get("a")
    with pytest.raises(SwerlError):
        registry.move("a", State.PREPARED)
    assert registry.get("a") == before


def test_readers_in_other_processes_see_whole_rows(tmp_path):
    """Four writers and a reader on one file: no lost update, no error, no half row."""
    script = (
        "import sys; from pathlib import Path; from swerl.record.registry import Registry; from swerl.record.process import this_process\n"
        "registry = Registry(Path(sys.argv[1])); name = sys.argv[2]\n"
        "registry.prepare(name, name); registry.begin(name, this_process(), 50)\n"
        "[registry.beat(name, n, 50) for n in range(51)]; registry.move(name, 'completed', exit_code=0)"
    )
    path = tmp_path / "registry.sqlite"
    writers = [subprocess.Popen([sys.executable, "-c", script, str(path), f"run{n}"]) for n in range(4)]
    registry = Registry(path)
    while any(writer.poll() is None for writer in writers):
        for run in registry.all():
            assert run.step is None or run.total_steps == 50
    assert [writer.returncode for writer in writers] == [0, 0, 0, 0]
    assert {(run.id, run.state, run.step, run.exit_code) for run in registry.all()} == {(f"run{n}", "completed", 50, 0) for n in range(4)}


class RegistryMachine(RuleBasedStateMachine):
    """Any sequence of commands, kills of the supervisor and reopenings keeps row and model equal."""

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "registry.sqlite"
        self.registry = Registry(self.path)
        self.state: State | None = None
        self.supervised = False

    def real(self) -> State | None:
        return None if self.state is None else effective(self.state, self.supervised)

    @rule()
    def prepare(self):
        if self.state is None or State.PREPARED in NEXT[self.real()]:
            self.registry.prepare("run", "digest")
            self.state = State.PREPARED
        else:
            with pytest.raises(SwerlError):
                self.registry.prepare("run", "digest")

    @precondition(lambda self: self.state is not None)
    @rule(alive=st.booleans())
    def begin(self, alive):
        if State.RUNNING in NEXT[self.real()]:
            self.registry.begin("run", this_process() if alive else DEAD, 5)
            self.state, self.supervised = State.RUNNING, alive
        else:
            with pytest.raises(SwerlError):
                self.registry.begin("run", this_process(), 5)

    @precondition(lambda self: self.state is not None)
    @rule(state=st.sampled_from([State.STOPPING, State.COMPLETED, State.FAILED, State.INTERRUPTED]))
    def move(self, state):
        if state in NEXT[self.real()]:
            self.registry.move("run", state)
            self.state = state
        else:
            with pytest.raises(SwerlError):
                self.registry.move("run", state)

    @precondition(lambda self: self.state is not None)
    @rule()
    def settle(self):
        self.registry.settle("run")
        self.state = self.real()

    @rule()
    def reopen(self):
        self.registry.close()
        self.registry = Registry(self.path)

    @invariant()
    def agrees(self):
        run = self.registry.get("run")
        assert (run and (run.recorded, run.state)) == (None if self.state is None else (self.state, self.real()))
        if run is not None:
            assert (run.ended is not None) == (run.recorded in {State.COMPLETED, State.FAILED, State.INTERRUPTED})

    def teardown(self):
        self.registry.close()
        self.folder.cleanup()


TestRegistryMachine = RegistryMachine.TestCase
TestRegistryMachine.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)
