"""Which errors of a training mean that a process is gone, so that the trainer is started again."""

import pytest
from ray import exceptions as rays

from swerl.errors import fail
from swerl.trainer.__main__ import cause_of, is_loss

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
