"""Evidence from outside of a sandbox: what is ours stays ours, whatever the agent was doing."""

import asyncio
import errno
import os
import signal

import psutil
import pytest
from trialkit import FIX, TEST_SH, Running, call, make_task, say, script

from swerl.record.outcomes import Outcome
from swerl.trials import blame, grading
from swerl.trials.sandboxes import limits
from swerl.trials.sandboxes.cluster import ClusterAway
from swerl.trials.sandboxes.launch import PROGRAM


def caused(error, by):
    error.__cause__ = by
    return error


def test_what_the_host_vouches_for():
    full = OSError(errno.ENOSPC, "No space left on device")
    assert isinstance(blame.outside(full), blame.HostFailed) and isinstance(
        blame.outside(caused(RuntimeError("x"), full)), blame.HostFailed
    )
    away = ClusterAway("exec")
    assert blame.outside(away) is away and blame.outside(caused(caused(RuntimeError("x"), KeyError("y")), away)) is away
    for theirs in (
        RuntimeError("No space left on device"),  # words
        OSError(errno.ENOENT, "No such file"),
        TimeoutError("late"),
        caused(TimeoutError("late"), asyncio.CancelledError()),
        RecursionError("deep"),
    ):
        assert blame.outside(theirs) is None


def first_processes(settings):
    """The process 1 of every sandbox of the run that is up."""
    found = [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] and p.info["cmdline"][-1] == settings.run_tag]
    return [p for p in found if any(word.startswith(PROGRAM) for word in p.info["cmdline"]) and "bwrap" not in p.name()]


@pytest.mark.trials
@pytest.mark.slow
@pytest.mark.skipif(not limits.group_root("x"), reason="no writable control groups: memory of the sandbox's own may have been the cause")
@pytest.mark.parametrize("phase", ["agent", "grading"])
def test_a_sandbox_that_the_host_killed_is_no_agents_doing(tmp_path, monkeypatch, phase):
    monkeypatch.setattr("swerl.trials.scheduler.BACKOFF_S", 0.01)
    slow = TEST_SH.replace("cd /tests", "cd /tests; sleep 2")
    task, killed = make_task(tmp_path, test_sh=slow), []

    async def main():
        async def policy(messages):
            turn = sum(message["role"] == "assistant" for message in messages)
            if turn == 1 and phase == "agent" and not killed:
                kill()
            return call(FIX) if turn == 0 else call("echo still here") if turn == 1 else say("done")

        def kill():
            (process,) = first_processes(running.settings)
            os.kill(process.pid, signal.SIGKILL)
            killed.append(process.pid)

        async with Running(tmp_path / "run", policy, max_attempts=2) as running:
            asking = asyncio.create_task(running.run(task))
            while phase == "grading" and not killed:
                await asyncio.sleep(0.05)
                inside = [e for e in running.events("trial.phase") if e["phase"] == "verifier"]
                sleeping = [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", "2"]]
                if inside and sleeping:
                    tested = sleeping[0].parents()
                    pid = next(p.pid for p in tested if p.pid in {q.pid for q in first_processes(running.settings)})
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
            result = await asking
            assert (result.outcome, result.reward, result.attempts) == (Outcome.COMPLETED, 1.0, 2)
            (failure,) = running.events("trial.failed")
            assert failure["outcome"] == "infra_failed" and "killed by something outside" in failure["error"]

    asyncio.run(main())


@pytest.mark.trials
@pytest.mark.slow
@pytest.mark.parametrize(
    ("test_sh", "outcome"),
    [
        ("#!/bin/bash\nsleep 99\n", Outcome.VERIFIER_TIMEOUT),
        ("#!/bin/bash\ntrue\n", Outcome.ENV_FAILED),
        ("#!/bin/bash\necho '{\"score\": 1}' > /logs/verifier/reward.json\n", Outcome.ENV_FAILED),
    ],
)
def test_a_task_whose_tests_give_nobody_a_verdict_is_no_agents_doing(tmp_path, test_sh, outcome):
    async def main():
        async with Running(tmp_path / "run", script(FIX), max_attempts=1) as running:
            result = await running.run(make_task(tmp_path, test_sh=test_sh, verifier_timeout=2))
            assert (result.outcome, result.reward, result.in_loss) == (outcome, None, False)
            assert (running.settings.trials_dir / result.trial_name / blame.CONTROL).is_dir()

    asyncio.run(main())


@pytest.mark.trials
@pytest.mark.slow
@pytest.mark.parametrize("at", ["changes", "record"])
def test_a_host_without_room_is_no_agents_doing(tmp_path, monkeypatch, at):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    if at == "changes":
        monkeypatch.setattr("swerl.trials.sandboxes.tree.Unpacker.feed", full)
    else:
        monkeypatch.setattr(grading.FreshVerifier, "_record", full)

    async def main():
        async with Running(tmp_path / "run", script(FIX), max_attempts=1) as running:
            result = await running.run(make_task(tmp_path))
            assert (result.outcome, result.reward, result.in_loss) == (Outcome.INFRA_FAILED, None, False)
            assert "No space left" in result.error

    asyncio.run(main())
