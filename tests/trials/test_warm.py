"""The pool: sandboxes are ready before their trials' turn, used once, by their own trial, and only if they live."""

import asyncio
import os
import signal

import pytest
from trialkit import FIX, Running, make_task, request_for, script

from swerl.record.outcomes import Outcome
from swerl.trials.attempt import AttemptRunner
from swerl.trials.sandboxes import launch, limits

pytestmark = pytest.mark.trials


@pytest.fixture
def task(tmp_path):
    return make_task(tmp_path)


def slow(*commands):
    """A policy that takes its time over each turn, so that trials wait for one another."""
    scripted = script(*commands)

    async def policy(messages):
        await asyncio.sleep(0.3)
        return scripted(messages)

    return policy


async def all_of(running, task, count):
    return await asyncio.gather(*(running.run(task, sample=n) for n in range(count)))


def test_waiting_trials_have_their_sandbox(tmp_path, task):
    async def main():
        async with Running(tmp_path / "run", slow(FIX), num_workers=1, warm_pool=2) as running:
            results = await all_of(running, task, 5)
            assert [(r.outcome, r.reward, r.error) for r in results] == [(Outcome.COMPLETED, 1.0, None)] * 5
            stats = running.runner.scheduler.stats()["warm"]
            assert stats == {"prepared": 4, "used": 4, "ready": 0}
            assert [event["warm"] for event in running.events("trial.started")] == [False, True, True, True, True]
            for result in results:  # a trial has one directory, one name and all its files, prepared or not
                assert result.trial_name.endswith("-1") and (running.settings.trials_dir / result.trial_name / "result.json").is_file()
            assert len(running.gateway.sessions) == 5 and all(s["closed"] for s in running.gateway.sessions.values())
        assert not any(root.exists() for root in limits.group_root(running.settings.run_tag))

    asyncio.run(main())


def test_there_is_none_unless_asked_for(tmp_path, task):
    async def main():
        async with Running(tmp_path / "run", slow(FIX), num_workers=1) as running:
            await all_of(running, task, 3)
            assert running.runner.scheduler.stats()["warm"] == {"ready": 0} and not running.events("sandbox.prepared")

    asyncio.run(main())


def test_a_sandbox_that_died_is_not_used(tmp_path, task):
    async def main():
        async with Running(tmp_path / "run", slow("true", "true", "true"), num_workers=1, warm_pool=1) as running:
            trials = [asyncio.create_task(running.run(task, sample=n)) for n in range(2)]
            while not running.events("sandbox.prepared"):
                await asyncio.sleep(0.02)
            (begun,) = running.runner.scheduler.warm.holding.values()
            os.kill(begun.environment.sandbox.pid, signal.SIGKILL)
            results = await asyncio.gather(*trials)
            assert [r.outcome for r in results] == [Outcome.COMPLETED] * 2 and results[1].attempts == 1
            assert running.runner.scheduler.stats()["warm"] == {"prepared": 1, "dead": 1, "ready": 0}

    asyncio.run(main())


def test_one_that_does_not_start_is_the_attempts_own_trouble(tmp_path, task, monkeypatch):
    async def fails(self, request, trial_name):
        raise launch.SandboxStartFailed("no luck")

    monkeypatch.setattr(AttemptRunner, "prepare", fails)

    async def main():
        async with Running(tmp_path / "run", slow(FIX), num_workers=1, warm_pool=1) as running:
            results = await all_of(running, task, 2)
            assert [r.reward for r in results] == [1.0, 1.0] and results[1].attempts == 1
            assert running.runner.scheduler.stats()["warm"] == {"failed": 1, "ready": 0}
            assert "no luck" in running.events("sandbox.failed")[0]["error"] and not running.events("trial.failed")

    asyncio.run(main())


def test_a_place_is_never_kept_from_a_trial_by_the_pool(tmp_path, task, monkeypatch):
    """A sandbox takes for ever to start. Its trial has its turn meanwhile, and gives its place in the pool to the next; the trial before
    that one runs until it has used it, so that the next has no turn yet."""
    prepare, run = AttemptRunner.prepare, AttemptRunner.run
    go_on, next_is_ready = asyncio.Event(), asyncio.Event()

    async def stuck(self, request, trial_name):
        if request.identity.sample == 2:
            await go_on.wait()
        ready = await prepare(self, request, trial_name)
        if request.identity.sample == 3:
            next_is_ready.set()
        return ready

    async def long(self, request, *more):
        if request.identity.sample == 1:
            await next_is_ready.wait()
        return await run(self, request, *more)

    monkeypatch.setattr(AttemptRunner, "prepare", stuck)
    monkeypatch.setattr(AttemptRunner, "run", long)

    async def main():
        async with Running(tmp_path / "run", slow(FIX), num_workers=2, warm_pool=1) as running:
            trials = [asyncio.create_task(running.run(task, sample=n)) for n in range(4)]
            await asyncio.wait_for(trials[3], 20)
            assert [trial.done() for trial in trials] == [True, True, False, True]
            assert running.runner.scheduler.warm.places._value == 1  # what is in its turn takes none of the pool's places
            go_on.set()
            assert [(await trial).reward for trial in trials] == [1.0] * 4
            assert [event["warm"] for event in running.events("trial.started")] == [False, False, True, True]
            assert running.runner.scheduler.stats()["warm"] == {"prepared": 2, "used": 2, "ready": 0}

            go_on.clear()
            trials = [asyncio.create_task(running.run(task, sample=n, version="b:1")) for n in range(3)]
            await asyncio.wait_for(asyncio.gather(*trials[:2]), 20)
            assert running.runner.scheduler.cancel(version="b:1") == 1  # in its turn, with a sandbox that is still starting
            assert (await trials[2]).outcome is Outcome.CANCELLED
            assert running.runner.scheduler.stats()["warm"] == {"prepared": 2, "used": 2, "ready": 0}

    asyncio.run(main())


def test_nothing_of_the_pool_outlives_a_stop_or_a_cancelled_trial(tmp_path, task):
    async def main():
        async def forever(messages):
            await asyncio.sleep(600)

        running = Running(tmp_path / "run", forever, num_workers=1, warm_pool=3)
        async with running:
            trials = [asyncio.create_task(running.run(task, sample=n)) for n in range(4)]
            while len(running.events("sandbox.prepared")) < 3:
                await asyncio.sleep(0.05)
            assert running.runner.scheduler.stats()["warm"]["ready"] == 3
            assert running.runner.scheduler.cancel(identity=request_for(task, sample=2).identity) == 1
            assert (await trials[2]).outcome is Outcome.CANCELLED
            assert running.runner.scheduler.stats()["warm"]["discarded"] == 1
        await asyncio.gather(*trials, return_exceptions=True)
        assert not running.runner.scheduler.warm.holding
        assert not any(root.exists() for root in limits.group_root(running.settings.run_tag))

    asyncio.run(main())
