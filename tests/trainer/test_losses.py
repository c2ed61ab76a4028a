"""Which errors of a training mean that a process is gone, so that the trainer is started again."""

import pytest
from ray import exceptions as rays

from swerl.errors import fail
from swerl.record.events import read_events
from swerl.record.rundir import RunDir
from swerl.trainer import __main__ as trainer
from swerl.trainer.__main__ import LOST, cause_of, is_loss

GONE = [
    rays.RayActorError(),
    rays.ActorDiedError(),
    rays.ActorUnavailableError("it does not answer", None),
    rays.WorkerCrashedError(),
    rays.NodeDiedError("node 2 died"),
    rays.OwnerDiedError("ab" * 28, "an owner", "a call"),
    rays.ObjectFetchTimedOutError("ab" * 28, "an owner", "a call"),
    rays.RaySystemError("the raylet is away"),
    rays.LocalRayletDiedError(),
]
OWN = [ValueError("a shape is wrong"), MemoryError(), rays.RuntimeEnvSetupError("no such module"), rays.TaskCancelledError()]


def passed_on(error: Exception, times: int) -> Exception:
    for number in range(times):
        error = rays.RayTaskError(f"task_{number}", "its traceback", error)
    return error


@pytest.mark.parametrize("times", [0, 1, 3])
@pytest.mark.parametrize("error", [*GONE, *OWN, fail("SWERL-R120", "the engine is dead", "read the log")], ids=lambda e: type(e).__name__)
def test_the_cause_is_found_and_told_from_a_loss(error, times):
    assert cause_of(passed_on(error, times)) is error
    assert is_loss(error) is (error in GONE)


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (ValueError("a shape is wrong"), "trainer.raised", None),
        (fail("SWERL-R120", "the engine is dead", "read the log"), "trainer.failed", LOST),
        (fail("SWERL-R110", "no such reward", "name it"), "trainer.failed", 1),
    ],
    ids=["its own", "a loss", "a problem"],
)
def test_the_trainer_says_why_it_ends(tmp_path, monkeypatch, error, kind, code):
    """Without such an event its supervisor takes it for killed, and starts it again."""

    def train(*_):
        raise error

    monkeypatch.setattr(trainer, "train", train)
    if code is None:
        with pytest.raises(ValueError, match="a shape is wrong"):
            trainer.main(["--run-dir", str(tmp_path)])
    else:
        assert trainer.main(["--run-dir", str(tmp_path)]) == code
    (event,) = read_events(RunDir.at(tmp_path).events_of("trainer"))
    assert event["kind"] == kind and str(error).split(" ", 2)[1] in str(event)
