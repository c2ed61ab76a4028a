"""Grading that the agent cannot prepare: its changes, screened, in a sandbox it has never been in. Harbor verifier by import path.

`FreshVerifier.verify` takes the agent's changes to the working directory out of its sandbox (whose other processes have ended), drops what
`screening` names, lays the rest over a fresh sandbox of the same task, and lets Harbor's own verifier run the task's tests there: no
network, PATH and Python start-up as the task has them, /tests and /logs/verifier empty before. An agent whose work cannot be taken out,
because it is larger than a fix can be or because it used up its sandbox, has done nothing: `SandboxExhausted`.

In a sandbox that cannot say what changed (another backend, or shared mode asked for), Harbor's verifier runs where the agent ran.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any, override

from harbor.models.verifier.result import VerifierResult
from harbor.verifier.verifier import Verifier

from swerl.trials.sandboxes.gradable import Gradable, SandboxExhausted
from swerl.trials.sandboxes.tree import Received, UnsafeEntry
from swerl.trials.screening import Finding, keep_removed, screen

ANSWER = "answer.json"
ANSWER_BYTES = 64 << 20
KEPT_ANSWER_BYTES = 1 << 20


class GradingSandboxFailed(RuntimeError):
    """The sandbox to grade in did not come up: nothing is known about the agent's work."""


class FreshVerifier(Verifier):
    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.findings: list[Finding] = []

    @override
    async def verify(self) -> VerifierResult:
        where = self.environment
        if not isinstance(where, Gradable) or not where.changes_only:
            return await super().verify()
        staged = Path(tempfile.mkdtemp(prefix="answer-", dir=self.trial_paths.trial_dir))
        try:
            try:
                received = await where.changes(staged, ANSWER_BYTES)
            except UnsafeEntry as error:
                raise SandboxExhausted(f"the agent's work cannot be taken out: {error}") from error
            drop, self.findings = screen(received, lambda name: (staged / name).read_bytes() if (staged / name).is_file() else b"")
            for name in drop:
                _remove(staged / name)
            return await self._verify_in_fresh(where, staged, received)
        finally:
            self._record(staged)
            await asyncio.to_thread(shutil.rmtree, staged, ignore_errors=True)

    async def _verify_in_fresh(self, where: Gradable, staged: Path, received: Received) -> VerifierResult:
        fresh = where.sibling(f"{where.session_id}__grading")
        try:
            try:
                await fresh.start(force_build=False)
            except Exception as error:
                where.host = fresh.host  # the failure is of that place
                raise GradingSandboxFailed(f"{type(error).__name__}: {error}") from error
            await fresh.remove(keep_removed(received.gone))
            if any(staged.iterdir()):
                await fresh.upload_dir(staged, fresh.workdir)
            self.environment = fresh
            with fresh.with_default_user(where.default_user):
                result = await super().verify()
            try:
                self.findings += [Finding("left-running-by-tests", line) for line in await fresh.quiesce()]
            except SandboxExhausted as error:  # the verdict is there, and the sandbox goes next
                self.findings.append(Finding("left-running-by-tests", str(error)))
            return result
        finally:
            self.environment = where
            await asyncio.shield(fresh.stop(delete=True))

    def _record(self, staged: Path) -> None:
        """Keep a small answer beside the trial's other files, and what was found about it in any case."""
        directory = self.trial_paths.trial_dir  # not below verifier/, which is filled from the sandbox
        files = [path for path in sorted(staged.rglob("*")) if path.is_file() and not path.is_symlink()]
        (directory / ANSWER).write_text(
            json.dumps(
                {
                    "files": {str(path.relative_to(staged)): path.stat().st_size for path in files[:1000]},
                    "findings": [finding.as_dict() for finding in self.findings[:200]],
                },
                indent=1,
            )
        )
        if sum(path.stat().st_size for path in files) <= KEPT_ANSWER_BYTES:
            for path in files:
                target = directory / "answer" / path.relative_to(staged)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
