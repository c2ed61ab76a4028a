"""Whose doing it is that something broke, by evidence that no code of an agent's can touch. What follows from it is `record.outcomes`.

`outside` knows errors that something outside of every sandbox vouches for. `verdict` runs a trial's verifier; where that gives none, the
same verifier runs at once, in the same place, on the task as nobody has touched it. If it gives a verdict then, the tests and their place
are sound, and what kept them from one is the work: it is worth 0. If not, the first failure is raised as what it is, the task's or ours.
"""

from __future__ import annotations

import asyncio
import errno
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harbor.models.trial.paths import TrialPaths
from harbor.models.verifier.result import VerifierResult
from harbor.trial.errors import VerifierTimeoutError

from swerl.record.outcomes import OURS
from swerl.trials.grading import FreshVerifier, GradingSandboxFailed
from swerl.trials.sandboxes.gradable import Gradable, SandboxExhausted
from swerl.trials.sandboxes.received import Received, printable
from swerl.trials.screening import Finding

CONTROL = "control"
NUMBERS = 100
# Errors of the host's own system calls that say that the host is ill; those of a sandbox's come as SandboxRefused.
_ILL = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM}


class HostFailed(RuntimeError):
    """This host had no room, memory or descriptors left, or a disk of it failed."""


class NoNumber(ValueError):
    """The verifier gave numbers, but not the one that counts, or one that is none."""


def outside(error: Exception) -> Exception | None:
    """The error, or what it came from, that is ours on evidence from outside of the sandbox."""
    cause: BaseException | None = error
    while isinstance(cause, Exception):  # a time limit comes from a cancellation, which is nobody's
        if isinstance(cause, OSError) and cause.errno in _ILL:
            return HostFailed(str(cause))
        if isinstance(cause, GradingSandboxFailed) or type(cause).__name__ in OURS:
            return cause
        cause = cause.__cause__
    return None


async def verdict(verifier: Any, limit_s: float | None, reward_key: str) -> tuple[VerifierResult, list[Finding]]:
    """The verifier's numbers, ``reward_key`` among them, and findings. Raises what kept it from them if that is not the work's doing, and
    SandboxExhausted if the work could not be taken out for a reason of its own."""
    try:
        return await _numbers(verifier, limit_s, reward_key), []
    except Exception as error:
        ours = outside(error)
        if ours is not None:
            raise ours from error
        if (
            not isinstance(verifier, FreshVerifier)
            or not isinstance(verifier.environment, Gradable)
            or not verifier.environment.changes_only
        ):
            raise  # nothing can be graded beside it
        failed = error
    try:
        await _numbers(_control(verifier), limit_s, reward_key)
    except Exception as error:
        raise outside(error) or _of_the_place(failed) from error
    if not verifier.handed_over:
        raise failed if isinstance(failed, SandboxExhausted) else SandboxExhausted(f"the agent's work cannot be taken out: {failed}")
    why = f"{type(failed).__name__}: {failed}; the same tests on the untouched task gave a verdict"
    return VerifierResult(rewards={reward_key: 0.0}), [Finding("no-verdict", why)]


def _of_the_place(failed: Exception) -> Exception:
    """What no work was needed for is no agent's, whatever words the sandbox found for it."""
    return GradingSandboxFailed(str(failed)) if isinstance(failed, SandboxExhausted) else failed


async def _numbers(verifier: Any, limit_s: float | None, reward_key: str) -> VerifierResult:
    try:
        result = await asyncio.wait_for(verifier.verify(), limit_s)
    except TimeoutError as error:
        raise VerifierTimeoutError(f"the tests took more than {limit_s:.0f} s") from error
    try:
        numbers = {key: float(value) for key, value in (result.rewards or {}).items()}
    except OverflowError as error:
        raise NoNumber("the verifier gave a number beyond all floats") from error
    sound = all(math.isfinite(number) and key.isprintable() for key, number in numbers.items())  # the names go into records
    if reward_key not in numbers or not sound or len(numbers) > NUMBERS:
        raise NoNumber(f"the verifier gave {printable(str(numbers)[:200])}, of which {reward_key!r} counts")
    return VerifierResult(rewards=numbers)


def _control(verifier: FreshVerifier) -> FreshVerifier:
    paths = TrialPaths(Path(verifier.trial_paths.trial_dir) / CONTROL)
    paths.mkdir()
    return type(verifier)(
        task=verifier.task,
        trial_paths=paths,
        environment=_Untouched(verifier.environment),  # type: ignore[arg-type]
        override_env=verifier.override_env,
        logger=verifier.logger,
        verifier_env=verifier.verifier_env,
        step_name=verifier.step_name,
        include_logs=verifier.include_logs,
        exclude_logs=verifier.exclude_logs,
    )


class _Untouched:
    """An agent's sandbox as its grading sees it, if nothing had been changed there. `Gradable`; it is asked for nothing but `changes` and
    a `sibling`, and the agent's own sandbox for nothing at all."""

    changes_only = True

    def __init__(self, of: Gradable):
        self._of = of
        self.session_id, self.host, self.default_user, self.workdir = f"{of.session_id}__{CONTROL}", of.host, of.default_user, of.workdir
        self.leftovers: list[str] = []
        self.refused_links: list[str] = []
        self.left_out: list[str] = []

    def sibling(self, session_id: str) -> Any:
        return self._of.sibling(session_id)

    async def changes(self, target: Path, limit_bytes: int) -> Received:
        return Received((), (), (), ())

    async def quiesce(self) -> list[str]:
        return []

    async def close_network(self) -> None: ...

    async def prepare_grading(self) -> None: ...

    async def remove(self, paths: Sequence[str]) -> None: ...

    async def lay(self, received: Path, links: Sequence[tuple[str, str]]) -> None: ...
