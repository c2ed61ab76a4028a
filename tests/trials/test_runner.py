"""The runner as a service: identities, outcomes, retries, hold, cancellation, shutdown, on real sandboxes and the gateway's stand-in."""

import asyncio
import os
import time
from pathlib import Path

import aiohttp
import pytest
from trialkit import FIX, Running, body_for, call, make_task, overflow, request_for, say, script

from swerl.record.model import Identity
from swerl.record.outcomes import Outcome
from swerl.record.trial_journal import read
from swerl.trials.breaker import BreakerOpen
from swerl.trials.sandboxes import launch, limits
from swerl.trials.settings import Tail

pytestmark = pytest.mark.trials


@pytest.fixture
def task(tmp_path):
    return make_task(tmp_path)


def test_a_fix_is_rewarded_and_nothing_is_not(tmp_path, task):
    async def main():
        async with Running(tmp_path / "run", script("cat -n calc.py", FIX)) as running:
            good = await running.run(task)
            running.gateway.policy = script("ls")
            bad = await running.run(task, sample=1)
            assert (good.outcome, good.reward, good.in_loss, good.turns) == (Outcome.COMPLETED, 1.0, True, 3)
            assert (bad.outcome, bad.reward, bad.in_loss, bad.turns) == (Outcome.COMPLETED, 0.0, True, 2)
            session = running.gateway.sessions[good.session]
            assert session["trial"] == {"split": "train", "task": "add", "sample": 0, "attempt": 1, "version": "a:0"}
            assert session["closed"] == "grading" and session["sampling"]["temperature"] == 1.0
            assert running.gateway.of(sample=0)[0]["seed"] != running.gateway.of(sample=1)[0]["seed"]
            directory = running.settings.trials_dir / good.trial_name
            for name in (
                "result.json",
                "config.json",
                "agent/trajectory.json",
                "verifier/test-stdout.txt",
                "verifier/reward.txt",
                "answer.json",
            ):
                assert (directory / name).is_file(), name
            key = session["key"]
            for path in (tmp_path / "run").rglob("*"):
                assert not path.is_file() or key.encode() not in path.read_bytes(), path
            tools = [m["content"] for request in running.gateway.requests for m in request["messages"] if m["role"] == "tool"]
            assert tools[0] == "     1\tdef add(a, b):\n     2\t    return a - b"

    asyncio.run(main())


def test_oracle_and_nop_need_no_gateway(tmp_path, task):
    async def main():
        for agent, reward in (("oracle", 1.0), ("nop", 0.0)):
            async with Running(tmp_path / agent, agent={"name": agent}) as running:
                result = await running.run(task)
                assert (result.outcome, result.reward, result.session) == (Outcome.COMPLETED, reward, None)

    asyncio.run(main())


def test_one_identity_is_one_trial(tmp_path, task):
    async def main():
        async with Running(tmp_path / "run") as running:
            results = await asyncio.gather(*(running.run(task) for _ in range(5)))
            assert len(running.gateway.sessions) == 1 and len({result.trial_name for result in results}) == 1
            status, body = await running.post("/trials", body_for(request_for(task)))
            assert status == 200 and body["reused"] and body["outcome"] == "completed" and body["identity"]["version"] == "a:0"
            await running.run(task, version="a:1")
            assert len(running.gateway.sessions) == 2
        async with Running(tmp_path / "run") as again:
            assert (await again.run(task)).reused and len(again.gateway.sessions) == 0

    asyncio.run(main())


def test_the_service_wants_its_token_and_sound_requests(tmp_path, task):
    async def main():
        async with Running(tmp_path / "run") as running:
            assert (await running.post("/trials", body_for(request_for(task)), token="wrong"))[0] == 401
            for change in ({"split": "test"}, {"sample": "0"}, {"task_dir": "relative"}, {"step": True}, {"version": ""}):
                status, body = await running.post("/trials", {**body_for(request_for(task)), **change})
                assert status == 400 and body["problems"][0]["id"] == "SWERL-T001"
            body = body_for(request_for(task))
            del body["task_id"]
            assert (await running.post("/trials", body))[1]["problems"][0]["message"].endswith("lacks 'task_id'")
            assert (await running.post("/cancel", {}))[0] == 400
            assert running.gateway.sessions == {}

    asyncio.run(main())


def test_concurrency_is_bounded(tmp_path, task):
    peak, alive = 0, 0

    async def policy(messages):
        nonlocal peak, alive
        alive += 1
        peak = max(peak, alive)
        await asyncio.sleep(0.2)
        alive -= 1
        return say("done")

    async def main():
        async with Running(tmp_path / "run", policy, num_workers=3) as running:
            results = await asyncio.gather(*(running.run(task, sample=n) for n in range(8)))
            assert {result.outcome for result in results} == {Outcome.COMPLETED}

    asyncio.run(main())
    assert peak <= 3


def test_endings_that_keep_their_verdict(tmp_path, task):
    async def main():
        async with Running(tmp_path / "turns", script(*[FIX] * 9)) as running:
            result = await running.run(task)
            assert (result.outcome, result.reward, result.in_loss) == (Outcome.MAX_TURNS, 1.0, True)
        async with Running(tmp_path / "overflow", lambda m: call(FIX) if len(m) == 2 else overflow()) as running:
            result = await running.run(task)
            assert (result.outcome, result.reward, result.in_loss) == (Outcome.CONTEXT_OVERFLOW, 1.0, True)

        async def slow(messages):
            if len(messages) == 2:
                return call(FIX)
            await asyncio.sleep(60)

        async with Running(tmp_path / "slow", slow, agent_timeout=1.0) as running:
            result = await running.run(task)
            assert (result.outcome, result.reward, result.in_loss) == (Outcome.AGENT_TIMEOUT, 1.0, False)

    asyncio.run(main())


def test_time_on_hold_is_not_the_agents(tmp_path, task):
    async def main():
        async def held(messages):
            session = next(iter(running.gateway.sessions.values()))
            before, began = session["hold_s"], time.monotonic()
            while time.monotonic() - began < 4.0:  # each of the two answers is held for longer than the agent's whole limit
                await asyncio.sleep(0.05)
                session["hold_s"] = before + time.monotonic() - began
            return script(FIX)(messages)

        async with Running(tmp_path / "run", held, agent_timeout=3.5) as running:
            result = await running.run(task)
            assert (result.outcome, result.reward) == (Outcome.COMPLETED, 1.0) and result.timing.hold_s > 7

    asyncio.run(main())


def test_a_restarted_gateway_changes_no_outcome(tmp_path, task, monkeypatch):
    monkeypatch.setattr("swerl.trials.clock.PROBE_S", 0.1)

    async def main():
        async with Running(tmp_path / "run", script("sleep 1; cat calc.py", FIX), agent_timeout=4.0) as running:
            trial = asyncio.create_task(running.run(task))
            while not running.gateway.requests:
                await asyncio.sleep(0.05)
            await running.gateway.stop()
            await asyncio.sleep(6)  # longer than the agent's limit
            await running.gateway.start()
            result = await trial
            assert (result.outcome, result.reward, result.attempts) == (Outcome.COMPLETED, 1.0, 1)

    asyncio.run(main())


def test_infrastructure_is_retried_in_a_new_session_and_a_new_sandbox(tmp_path, task, monkeypatch):
    real, failures = launch.start, iter([True, False, False, False])

    async def flaky(*args):
        if next(failures):
            raise launch.SandboxStartFailed("no luck")
        return await real(*args)

    monkeypatch.setattr(launch, "start", flaky)

    async def main():
        async with Running(tmp_path / "run", script(FIX)) as running:
            result = await running.run(task)
            assert (result.outcome, result.reward, result.attempts) == (Outcome.COMPLETED, 1.0, 2)
            assert [s["trial"]["attempt"] for s in running.gateway.sessions.values()] == [1, 2]
            assert all(s["closed"] for s in running.gateway.sessions.values())
            assert running.events("trial.failed")[0]["outcome"] == "env_failed"
            assert result.trial_name.endswith("-2")

    asyncio.run(main())


def test_attempts_wait_longer_each_time_and_the_cause_is_kept(tmp_path, task, monkeypatch):
    """What is broken for a moment is not asked again at once: ``BACKOFF_S * 2**n`` with half to one and a half of it."""

    async def broken(*args):
        raise launch.SandboxStartFailed("the loop device is gone")

    monkeypatch.setattr(launch, "start", broken)
    monkeypatch.setattr("swerl.trials.scheduler.BACKOFF_S", 0.4)

    async def main():
        async with Running(tmp_path / "run", script(FIX), max_attempts=3) as running:
            result = await running.run(task)
            assert (result.outcome, result.graded, result.reward, result.attempts) == (Outcome.ENV_FAILED, False, None, 3)
            assert "SandboxStartFailed" in result.error and "the loop device is gone" in result.error
            failed, started = ([e["time"] for e in running.events(kind)] for kind in ("trial.failed", "trial.started"))
            first, second = (again - before for before, again in zip(failed, started[1:], strict=False))
            assert first >= 0.2 and second >= 0.4 and len(started) == 3

    asyncio.run(main())


def test_what_breaks_in_harbor_is_told_in_its_own_words(tmp_path, task, monkeypatch):
    async def broken(*args, **kwargs):
        raise RuntimeError("there is no field of this name")

    monkeypatch.setattr("swerl.trials.attempt.Trial.create", broken)
    monkeypatch.setattr("swerl.trials.scheduler.BACKOFF_S", 0.01)

    async def main():
        async with Running(tmp_path / "run", script(FIX), max_attempts=1) as running:
            result = await running.run(task)
            assert (result.outcome, result.graded) == (Outcome.INFRA_FAILED, False)
            assert result.error == "RuntimeError: there is no field of this name"
            assert running.events("trial.failed")[0]["error"] == result.error

    asyncio.run(main())


def test_what_cannot_be_judged_is_absent_never_zero(tmp_path):
    async def main():
        task = make_task(tmp_path, "mute", test_sh="#!/bin/bash\nexit 0\n")
        stuck = make_task(tmp_path, "stuck", test_sh="#!/bin/bash\nsleep 100\n", verifier_timeout=1)
        large = make_task(tmp_path, "large")
        (large / "environment" / "data.bin").write_bytes(bytes(80 << 20))  # more than this sandbox's disk
        async with Running(tmp_path / "run", breaker_failures=99) as running:
            result = await running.run(task)
            assert (result.outcome, result.graded, result.reward, result.in_loss) == (Outcome.ENV_FAILED, False, None, False)
            assert result.attempts == 2 and "RewardFileNotFoundError" in result.error
            result = await running.run(large)
            assert (result.outcome, result.graded, result.reward, result.in_loss) == (Outcome.ENV_FAILED, False, None, False)
            assert result.attempts == 2 and "No space left" in result.error and "findings" not in result.info, "no agent has done anything"
            result = await running.run(stuck)
            assert (result.outcome, result.reward) == (Outcome.VERIFIER_TIMEOUT, None)
            gone = await running.run(tmp_path / "nowhere")
            assert (gone.outcome, gone.reward, gone.attempts) == (Outcome.INFRA_FAILED, None, 2)

    asyncio.run(main())


def test_the_breaker_stops_the_run_with_the_first_cause(tmp_path, task, monkeypatch):
    async def broken(*args):
        raise launch.SandboxStartFailed("image pull failed")

    monkeypatch.setattr(launch, "start", broken)
    monkeypatch.setattr("swerl.trials.scheduler.BACKOFF_S", 0.01)

    async def main():
        async with Running(tmp_path / "run", breaker_failures=3, num_workers=1) as running:
            tasks = [make_task(tmp_path, f"t{n}") for n in range(4)]
            results = await asyncio.gather(*(running.run(task) for task in tasks), return_exceptions=True)
            assert any(isinstance(result, BreakerOpen) for result in results)
            status, body = await running.post("/trials", body_for(request_for(task, sample=9)))
            assert status == 409 and "image pull failed" in body["error"] and body["problems"][0]["id"] == "SWERL-T041"
            assert running.runner.scheduler.stats()["breaker"]["id"] == "SWERL-T041"

    asyncio.run(main())


def test_cancel_and_shutdown_leave_nothing(tmp_path, task):
    async def forever(messages):
        return call("setsid sleep 600 & sleep 600")

    async def main():
        running = Running(tmp_path / "run", forever, num_workers=4)
        async with running:
            trials = [asyncio.create_task(running.run(task, sample=n, version=f"v:{n % 2}")) for n in range(6)]
            while len(running.gateway.requests) < 4:
                await asyncio.sleep(0.05)
            status, body = await running.post("/cancel", {"version": "v:0"})
            assert (status, body) == (200, {"cancelled": 3})
            for result in await asyncio.gather(*trials[::2]):
                assert (result.outcome, result.in_loss) == (Outcome.CANCELLED, False)
            who = request_for(task, sample=1, version="v:1").identity
            assert (
                await running.post("/cancel", {"identity": {"split": who.split, "task_hash": who.task_hash, "sample": 1, "version": "v:1"}})
            )[1] == {"cancelled": 1}
            assert (await trials[1]).outcome is Outcome.CANCELLED
        ended = await asyncio.gather(*trials, return_exceptions=True)
        assert [type(result).__name__ for result in ended].count("Stopping") == 2
        assert all(session["closed"] for session in running.gateway.sessions.values())
        assert not any(root.exists() for root in limits.group_root(running.settings.run_tag))
        assert os.popen("pgrep -f 'sleep 60[0]'").read() == ""
        settled = [line["result"] for line in read(running.settings.journal_path) if line["kind"] == "settled"]
        assert {line["outcome"] for line in settled} == {"cancelled"} and len(settled) == 4  # those that shutdown ended are not

    asyncio.run(main())


def test_the_tail_is_cut_and_absent(tmp_path, task):
    async def main():
        slow = {4, 5}

        async with Running(tmp_path / "run", num_workers=8, step_trials=6, group_size=6, tail=Tail(0.6, 0.3, 4)) as r:

            async def by_session(request):
                key = request.headers["Authorization"].removeprefix("Bearer ")
                if r.gateway.sessions[r.gateway.keys[key]]["trial"]["sample"] in slow:
                    await asyncio.sleep(120)
                return await chat(request)

            chat = r.gateway._chat
            r.gateway._chat = by_session
            await r.gateway.stop()
            await r.gateway.start()
            began = time.monotonic()
            results = await asyncio.gather(*(r.run(task, sample=n) for n in range(6)))
            assert time.monotonic() - began < 60
            assert [result.outcome for result in results] == [Outcome.COMPLETED] * 4 + [Outcome.TAIL_KILLED] * 2
            assert all(result.reward is None and not result.in_loss for result in results[4:])
            assert all(session["closed"] for session in r.gateway.of(sample=4))
            assert len(r.events("tail.killed")) == 2

    asyncio.run(main())


def test_the_hard_limit_ends_what_no_other_limit_did(tmp_path, task):
    async def main():
        async def forever(messages):
            await asyncio.sleep(600)

        async with Running(tmp_path / "run", forever, agent_timeout=1000.0, hard_timeout_s=1.0) as running:
            result = await running.run(task)
            assert (result.outcome, result.graded, result.in_loss) == (Outcome.AGENT_TIMEOUT, False, False)

    asyncio.run(main())


def test_an_identity_names_all_its_parts():
    one = Identity("train", "sha256:x", 0, "a:1")
    others = [
        Identity("val", "sha256:x", 0, "a:1"),
        Identity("train", "sha256:y", 0, "a:1"),
        Identity("train", "sha256:x", 1, "a:1"),
        Identity("train", "sha256:x", 0, "a:2"),
    ]
    assert len({one.key, *(other.key for other in others)}) == 5 and len({one.digest, *(other.digest for other in others)}) == 5


def test_a_client_that_leaves_does_not_end_the_trial(tmp_path, task):
    async def main():
        async with Running(tmp_path / "run", script("sleep 1", FIX)) as running:
            with pytest.raises((aiohttp.ClientError, asyncio.TimeoutError)):
                await asyncio.wait_for(running.post("/trials", body_for(request_for(task))), 0.4)
            result = await running.run(task)
            assert result.reward == 1.0 and len(running.gateway.sessions) == 1

    asyncio.run(main())


def test_the_trial_directory_is_where_others_look(tmp_path, task):
    async def main():
        async with Running(tmp_path / "run") as running:
            result = await running.run(task)
            assert Path(running.settings.trials_dir / result.trial_name).relative_to(tmp_path / "run" / "trials" / "project" / "run")

    asyncio.run(main())
