"""Grading that the agent cannot prepare: its changes, screened, in a sandbox it has never been in. Harbor verifier by import path.

`FreshVerifier.verify` takes the agent's changes to the working directory out of its sandbox (whose other processes have ended), drops what
`screening` names, lays the rest over a fresh sandbox of the same task, and runs the task's tests there as its `graders` class says: no
network, PATH and Python start-up as the task has them, /tests and /logs/verifier empty before. When every process of the tests has ended
the verdict is made here, from what came out. An agent whose work cannot be taken out, because it is larger than a fix can be or because
it used up its sandbox, has done nothing: `SandboxExhausted`.

In a sandbox that cannot say what changed (another backend, or shared mode asked for), and for an image that brings its own tests,
Harbor's verifier runs where the agent ran. A reward outside the task's range ([metadata] reward_range, 0 to 1) is none of its own: it
pays 0, in both.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, override

from harbor.environments.base import ExecResult
from harbor.models.verifier.result import VerifierResult
from harbor.utils.env import resolve_env_vars
from harbor.verifier.verifier import Verifier, VerifierOutputParseError

from swerl.trials.graders import KEY, LOGS, TESTS, Answer, Ended, Grader, NoVerdict, grader_for
from swerl.trials.sandboxes.gradable import Gradable, SandboxExhausted
from swerl.trials.sandboxes.received import Received, files, printable, read_file, remove
from swerl.trials.sandboxes.tree import UnsafeEntry
from swerl.trials.screening import Finding, keep_removed, screen

ANSWER = "answer.json"
ANSWER_BYTES = 64 << 20
KEPT_ANSWER_BYTES = 1 << 20
REWARD_BYTES = 64 << 10


class GradingSandboxFailed(RuntimeError):
    """The sandbox to grade in did not come up: nothing is known about the agent's work."""


class FreshVerifier(Verifier):
    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.findings: list[Finding] = []
        self.handed_over = False  # the fresh sandbox is up: what breaks from now on breaks by the work or the tests

    @override
    async def verify(self) -> VerifierResult:
        where = self.environment
        if not isinstance(where, Gradable) or not where.changes_only:
            try:
                return self._in_range((await super().verify()).rewards or {})
            finally:
                if self.findings:
                    await asyncio.to_thread(self._record, None)
        staged = Path(tempfile.mkdtemp(prefix="answer-", dir=self.trial_paths.trial_dir))
        try:
            try:
                received = await where.changes(staged, ANSWER_BYTES)
            except UnsafeEntry as error:
                raise SandboxExhausted(f"the agent's work cannot be taken out: {error}") from error
            drop, self.findings = await asyncio.to_thread(screen, received, lambda name: read_file(staged, name, ANSWER_BYTES) or b"")
            drop += _instead_of_kept(received)
            await asyncio.to_thread(remove, staged, drop)
            return await self._verify_in_fresh(where, staged, received, set(drop))
        finally:
            await asyncio.to_thread(self._record, staged)
            await asyncio.to_thread(shutil.rmtree, staged, ignore_errors=True)

    async def _verify_in_fresh(self, where: Gradable, staged: Path, received: Received, drop: set[str]) -> VerifierResult:
        fresh = where.sibling(f"{where.session_id}__grading")
        try:
            try:
                await fresh.start(force_build=False)
            except Exception as error:
                where.host = fresh.host  # the failure is of that place
                raise GradingSandboxFailed(f"{type(error).__name__}: {error}") from error
            self.handed_over = True
            links = [(name, target) for name, target in received.links if name not in drop]
            replaced = [name for name in _in_place_of(received) if name not in drop and not (staged / name).is_dir()]
            await fresh.remove([*keep_removed(received.gone), *replaced])  # what they replace may be a directory
            if links or any(staged.iterdir()):
                await fresh.lay(staged, links)
            self.environment = fresh
            with fresh.with_default_user(where.default_user):
                if self._skip_tests_upload or self.step_name is not None:
                    result = await super().verify()
                    await self._end_tests(fresh)
                    return self._in_range(result.rewards or {})
                return self._in_range(await self._judged(fresh, Answer(staged, tuple(received.gone))))
        finally:
            self.environment = where
            self.findings += [Finding("link-outside", link) for link in fresh.refused_links[:8]]
            self.findings += [Finding("left-out", name) for name in fresh.left_out[:8]]
            await asyncio.shield(fresh.stop(delete=True))

    async def _judged(self, fresh: Any, answer: Answer) -> Mapping[str, float]:
        """Run the tests as their grader says, and judge what is left of them."""
        directory, logs = self.task.paths.tests_dir, self.trial_paths.verifier_dir
        run_once = bool(self.task.config.metadata.get("tests_run_once", False))
        grader = await asyncio.to_thread(grader_for, directory, fresh.workdir, not run_once)
        with tempfile.TemporaryDirectory(prefix="tests-", dir=self.trial_paths.trial_dir) as kept:
            tests, left = Path(kept) / "staged", Path(kept) / "left"
            tests.mkdir()
            left.mkdir()
            await asyncio.to_thread(grader.stage, directory, tests)
            await fresh.upload_dir(tests, TESTS)
            done = await fresh.exec(grader.command, env=self._environment())
            await self._end_tests(fresh)
            await fresh.download_dir(LOGS, logs)
            await fresh.download_dir(TESTS, left)
            ended = await asyncio.to_thread(_ended, done, grader, tests, left, logs)
            try:
                verdict = await asyncio.to_thread(grader.judge, ended, answer)
            except NoVerdict as none:
                self.findings += none.findings
                raise none.error from none
        self.findings += verdict.findings
        return verdict.rewards

    def _environment(self) -> dict[str, str] | None:
        asked = {**self.task.config.verifier.env, **(self.verifier_env or {}), **self.override_env}
        return resolve_env_vars(asked) if asked else None

    async def _end_tests(self, fresh: Any) -> None:
        try:
            self.findings += [Finding("left-running-by-tests", line) for line in await fresh.quiesce()]
        except SandboxExhausted as error:  # nothing of it runs on, and it goes next
            self.findings.append(Finding("left-running-by-tests", str(error)))

    def _in_range(self, rewards: Mapping[str, float]) -> VerifierResult:
        low, high = self.task.config.metadata.get("reward_range", (0.0, 1.0))
        reward = rewards.get("reward")
        if reward is not None and not low <= reward <= high:
            self.findings.append(Finding("reward-out-of-range", f"{reward} is not from {low} to {high}"))
            rewards = {**rewards, "reward": min(max(0.0, low), high)}
        return VerifierResult(rewards=dict(rewards))

    @override
    def _parse_reward_json(self) -> dict[str, float | int]:
        self._refuse_large(self.trial_paths.reward_json_path)
        return super()._parse_reward_json()

    @override
    def _parse_reward_text(self) -> dict[str, float | int]:
        self._refuse_large(self.trial_paths.reward_text_path)
        return super()._parse_reward_text()

    def _refuse_large(self, path: Path) -> None:
        if path.stat().st_size > REWARD_BYTES:
            raise VerifierOutputParseError(f"{path.name} has more than {REWARD_BYTES} bytes")

    def _record(self, staged: Path | None) -> None:
        """Keep a small answer beside the trial's other files, and what was found about it in any case."""
        directory = self.trial_paths.trial_dir  # not below verifier/, which is filled from the sandbox
        found = [] if staged is None else list(files(staged))
        (directory / ANSWER).write_text(
            json.dumps(
                {
                    "files": {printable(name): size for name, size in found[:1000]},
                    "findings": [finding.as_dict() for finding in self.findings[:200]],
                },
                indent=1,
            )
        )
        if staged is not None and sum(size for _, size in found) <= KEPT_ANSWER_BYTES:
            for name, _ in found:
                data = read_file(staged, name, KEPT_ANSWER_BYTES)
                if data is not None:
                    target = directory / "answer" / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(data)


def _ended(done: ExecResult, grader: Grader, tests: Path, left: Path, logs: Path) -> Ended:
    """``left`` is what /tests held in the end, ``tests`` what it held before."""
    before, after = ({name: read_file(root, name, ANSWER_BYTES) for name, _ in files(root)} for root in (tests, left))
    unlike = sorted(name for name, data in before.items() if name not in grader.goes and after.get(name) != data)
    added = sorted(name for name in after if name not in before and "__pycache__" not in name)
    wrote = [name for name in ("reward.json", "reward.txt") if not grader.asks and (logs / name).exists()]
    key = (read_file(left, KEY, 1024) or b"").decode(errors="replace")
    return Ended(done.return_code, done.stdout or "", logs, key, unlike, added, wrote)


def _in_place_of(received: Received) -> list[str]:
    """Written names that the baseline knew, or that had something below them."""
    there = set(received.known) | _above(received.gone)
    return [name for name in received.written if name in there]


def _instead_of_kept(received: Received) -> list[str]:
    """Files and links in the place of a directory of which something stays: that stays too."""
    kept = set(received.gone) - set(keep_removed(received.gone))
    above, directories = _above(kept), _above(received.written)
    return [name for name in received.written if name in above and name not in directories]


def _above(names: Iterable[str]) -> set[str]:
    return {str(parent) for name in names for parent in PurePosixPath(name).parents}
