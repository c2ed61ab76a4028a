"""Sandboxes that all fail: the real supervisor pauses the run with the first cause, and the same command resumes it once that is mended."""

import json
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from crashkit import Scene

from swerl.record.registry import Registry
from swerl.record.states import State
from swerl.runs.status import one_screen, status_of

pytestmark = pytest.mark.slow


@pytest.fixture
def tools():
    """Every sandbox is to show it, and it is not there yet. Not below pytest's directory, which a sandbox's user may not enter."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder) / "tools"


def test_a_pile_up_pauses_the_run_and_names_its_first_cause(tmp_path, tools):
    mounts = [{"host_path": str(tools), "mount_path": "/opt/tools"}]
    scene = Scene(tmp_path, {"harbor_agent.host_path_mounts": json.dumps(mounts)})
    outcome, found = scene.carry_out()
    assert found is None and outcome.state is State.INTERRUPTED and outcome.exit_code != 0
    problem = outcome.problem
    assert problem.id in ("SWERL-T040", "SWERL-T041") and str(tools) in problem.message and "SandboxStartFailed" in problem.message, problem
    failed = scene.settled()  # none, or those whose own attempts were used up before the step's
    assert all(result["outcome"] == "env_failed" and not result["graded"] for result in failed)
    said = one_screen(status_of(scene.run, Registry(scene.run.registry)))
    assert problem.id in said and str(tools) in said, said
    scene.check_nothing_left()

    tools.mkdir()
    _, found = scene.carry_out()
    assert found is not None
    scene.check(found, failed_before=len(failed))
