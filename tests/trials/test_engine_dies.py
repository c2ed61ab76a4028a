"""No trial is judged on an error of ours: agents that give up after a few tries, and an engine or a gateway that is away for longer."""

import asyncio
import subprocess
from pathlib import Path

import pytest
from trialkit import FIX, Running, make_task, request_for, script, settings_for

from swerl.record.outcomes import Outcome
from swerl.record.trial_journal import read
from swerl.trials.service import Runner

pytestmark = [pytest.mark.trials, pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[2]


def agent(manner: str) -> dict:
    return {"import_path": f"impatient:{manner}", "model_name": "hosted_vllm/policy", "kwargs": {"max_turns": 4}}


@pytest.mark.parametrize("trouble", ["dies", "fails"])
@pytest.mark.parametrize("manner", ["Loud", "Quiet"])
def test_an_agent_that_gives_up_while_the_engine_is_away_is_not_judged(tmp_path, manner, trouble):
    """The real gateway over HTTP. What the agent made of it, an error or an end with nothing done, is neither graded nor counted against
    task, host or the step's retries; the next attempt waits for an engine."""
    task, run = make_task(tmp_path), tmp_path / "run"
    run.mkdir()
    python = ROOT / ".venv" / "train" / "bin" / "python"
    with subprocess.Popen(
        [python, Path(__file__).with_name("real_gateway.py"), run, trouble], stdout=subprocess.PIPE, text=True
    ) as gateway:
        try:
            assert gateway.stdout.readline() == "ready\n"

            async def main():
                runner = Runner(settings_for(run, agent=agent(manner), breaker_failures=1, retry_budget=0.0))
                await runner.start()
                try:
                    return await runner.scheduler.ask(request_for(task)), runner.scheduler.stats()
                finally:
                    await runner.stop()

            result, stats = asyncio.run(main())
        finally:
            gateway.terminate()
    assert (result.outcome, result.reward, result.attempts, result.turns) == (Outcome.COMPLETED, 1.0, 2, 3)
    assert stats["breaker"] is None and not stats["quarantined"]
    from swerl.record.events import read_events

    (failed,) = [event for event in read_events(run / "events" / "runner.jsonl") if event["kind"] == "trial.failed"]
    assert failed["outcome"] == "infra_failed" and "no answer from the engine" in failed["error"]


@pytest.mark.parametrize("manner", ["Loud", "Quiet"])
def test_an_agent_that_gives_up_while_the_gateway_is_away_is_not_judged(tmp_path, manner, monkeypatch):
    monkeypatch.setattr("swerl.trials.clock.PROBE_S", 0.1)
    monkeypatch.setattr("swerl.trials.attempt.PROBE_S", 0.1)

    async def main():
        async with Running(tmp_path / "run", script("cat calc.py", FIX), agent=agent(manner)) as running:
            trial = asyncio.create_task(running.run(make_task(tmp_path)))
            while not running.gateway.requests:
                await asyncio.sleep(0.005)
            await running.gateway.stop()
            await asyncio.sleep(3.0)
            await running.gateway.start()
            result = await trial
            assert (result.outcome, result.reward, result.attempts) == (Outcome.COMPLETED, 1.0, 2)
            assert "the gateway was away" in running.events("trial.failed")[0]["error"]

    asyncio.run(main())


def test_an_error_of_the_agents_own_is_judged_as_ever(tmp_path):
    """Unanswered requests, nothing else, take a trial out: one that the gateway refused by right is the agent's affair."""
    from aiohttp import web

    def policy(messages):
        raise web.HTTPBadRequest(text='{"error": {"code": "max_tokens", "message": "no"}}')

    async def main():
        async with Running(tmp_path / "run", policy, agent=agent("Loud")) as running:
            result = await running.run(make_task(tmp_path))
            assert (result.outcome, result.graded, result.reward, result.attempts) == (Outcome.AGENT_ERROR, True, 0.0, 1)

    asyncio.run(main())


def test_a_later_start_asks_again_for_what_had_no_verdict_and_anew_for_what_taught_nothing(tmp_path, monkeypatch):
    """What a start of the trainer settled answers that start again and again. The next start has trials without a verdict run again, those
    with one only when it asks anew; what still runs under weights that it does not have is ended."""
    from dataclasses import replace

    monkeypatch.setattr("swerl.trials.scheduler.BACKOFF_S", 0.01)

    async def main():
        task = make_task(tmp_path)

        def asking(epoch, sample=0, version="a:0", anew=False):
            return replace(request_for(task, sample=sample, version=version), epoch=epoch, anew=anew)

        async with Running(tmp_path / "run", script(FIX), breaker_failures=99) as running:
            ask = running.runner.scheduler.ask
            hidden = task.rename(task.with_name("hidden"))
            lost = await ask(asking(1))
            assert lost.outcome is Outcome.INFRA_FAILED and (await ask(asking(1))).reused
            hidden.rename(task)
            assert (await ask(asking(1))).outcome is Outcome.INFRA_FAILED
            found = await ask(asking(2))
            assert (found.outcome, found.reused) == (Outcome.COMPLETED, False)
            assert (await ask(asking(3))).reused
            again = await ask(asking(3, anew=True))
            assert not again.reused and again.trial_name != found.trial_name
            assert (await ask(asking(3, anew=True))).trial_name == again.trial_name, "asked twice for it, it is run once"
            seeds = [session["seed"] for session in running.gateway.of(version="a:0")]
            assert len(set(seeds[:-1])) == 1 and seeds[-1] != seeds[0], "begun again it is the same sample; asked for anew, another"

            async def never(messages):
                await asyncio.sleep(600)

            running.gateway.policy = never
            left = [asyncio.create_task(ask(asking(3, sample=1, version=version))) for version in ("a:0", "L1:4")]
            while len(running.gateway.of(sample=1)) < 2:
                await asyncio.sleep(0.02)
            kept = asyncio.create_task(ask(asking(4, sample=1, version="a:0")))
            assert (await left[1]).outcome is Outcome.CANCELLED
            assert not left[0].done() and not kept.done()
            running.gateway.policy = script(FIX)
        settled = [line["result"]["outcome"] for line in read(running.settings.journal_path) if line["kind"] == "settled"]
        assert settled == ["infra_failed", "completed", "completed", "cancelled"]
        for trial in (left[0], kept):
            assert "stopping" in str(trial.exception())

    asyncio.run(main())
