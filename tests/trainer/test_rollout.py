"""What `TrialRollout` gives the trainer for every end that a trial can have, over real HTTP: a trial out of the loss has no row."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web

from swerl.record.model import Identity, TrialResult
from swerl.record.outcomes import MEANING, Outcome
from swerl.trainer.rollout import Session, TrialRollout

PATH = {"main": True, "prompt_ids": [1, 2], "response_ids": [5, 6, 7], "response_mask": [1, 0, 1], "response_logprobs": [-0.5, 0.0, -0.25],
        "versions": [7, -1, 7], "turns": 2}  # fmt: skip

# Every row of the table in `outcomes`, with each of the settings that decide: (outcome, graded, in_loss).
ENDS = [
    (Outcome.COMPLETED, True, True),
    (Outcome.MAX_TURNS, True, True),
    (Outcome.CONTEXT_OVERFLOW, True, True),
    (Outcome.CONTEXT_OVERFLOW, True, False),
    (Outcome.AGENT_TIMEOUT, True, False),
    (Outcome.AGENT_TIMEOUT, True, True),
    (Outcome.AGENT_ERROR, True, True),
    (Outcome.AGENT_ERROR, False, False),
    (Outcome.VERIFIER_TIMEOUT, False, False),
    (Outcome.ENV_FAILED, False, False),
    (Outcome.INFRA_FAILED, False, False),
    (Outcome.TAIL_KILLED, False, False),
    (Outcome.CANCELLED, False, False),
]


def result(outcome: Outcome, graded: bool, in_loss: bool, **changes: Any) -> TrialResult:
    who = Identity("train", "sha256:h", 3, "L1:7")
    reward = 0.25 if graded else None
    made = TrialResult(who, "t", outcome, in_loss, graded, reward, {"reward": 0.25, "style": 1.0} if graded else {}, session="s1")
    return replace(made, **changes)


def roll(tmp_path: Path, settled: TrialResult, split: str = "train", **options: Any) -> tuple[Session, list[dict[str, Any]], int]:
    """One trial through runner and gateway; also what the runner was asked, and how many recordings were fetched."""
    asked, fetched = [], []

    async def trial(request: web.Request) -> web.Response:
        asked.append(orjson.loads(await request.read()))
        return web.Response(body=orjson.dumps(settled.as_dict()))

    async def recording(request: web.Request) -> web.Response:
        fetched.append(request.match_info["id"])
        return web.Response(body=orjson.dumps({"paths": [PATH]}))

    async def main() -> Session:
        app = web.Application()
        app.add_routes([web.post("/trials", trial), web.get("/sessions/{id}/recording", recording)])
        server = web.AppRunner(app)
        await server.setup()
        site = web.TCPSite(server, "127.0.0.1", 0)
        await site.start()
        url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"
        services = tmp_path / "services.json"
        services.write_bytes(
            orjson.dumps({"runner": {"url": url, "token": "a"}, "gateway": {"admin_url": url, "admin_token": "b", "public_url": url}})
        )
        rollout = TrialRollout(str(services), {"train": str(tmp_path / "train"), "val": str(tmp_path / "val")}, 8, 8, **options)
        try:
            task = {"task_path": "tasks/one", "task_hash": "sha256:h", "task_id": "one"}
            async with asyncio.timeout(30):
                return await rollout.run(split=split, extra_info=task, sample=3, version="L1:7", step=8)
        finally:
            await rollout.close()
            await server.cleanup()

    return asyncio.run(main()), asked, len(fetched)


def test_the_table_is_whole():
    assert {outcome for outcome, _, _ in ENDS} == set(MEANING)


@pytest.mark.parametrize(("outcome", "graded", "in_loss"), ENDS)
def test_a_training_trial_has_rows_exactly_when_it_is_in_the_loss(tmp_path: Path, outcome: Outcome, graded: bool, in_loss: bool):
    session, _, fetched = roll(tmp_path, result(outcome, graded, in_loss))
    assert len(session.rows) == fetched == int(in_loss)
    assert session.reward == (0.25 if graded else None), "no verdict is no reward, never 0"
    assert session.extra == ({"acc": 0.25, "verifier_reward": 0.25, "verifier_style": 1.0} if graded else {})
    assert session.result["outcome"] == outcome.value
    for row in session.rows:
        assert (row.prompt_ids, row.response_ids, row.mask, row.versions) == ([1, 2], [5, 6, 7], [1, 0, 1], [7, -1, 7])


@pytest.mark.parametrize(("outcome", "graded", "in_loss"), ENDS)
def test_a_validation_trial_is_counted_exactly_when_it_has_a_verdict(tmp_path: Path, outcome: Outcome, graded: bool, in_loss: bool):
    """Nothing is trained on it, so the loss has no say."""
    session, _, _ = roll(tmp_path, result(outcome, graded, in_loss), split="val")
    assert len(session.rows) == int(graded) and session.reward == (0.25 if graded else None)


def test_a_verdict_without_a_session_trains_nothing(tmp_path: Path):
    """The agent never asked: there is no token of the policy."""
    session, _, fetched = roll(tmp_path, result(Outcome.COMPLETED, True, True, session=None))
    assert (session.rows, session.reward, session.extra, fetched) == ([], None, {}, 0)


def half(settled: Any) -> float:
    return settled["reward"] / 2


def test_a_reward_of_ones_own_replaces_the_number_and_not_the_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from swerl.trainer import rollout

    monkeypatch.setattr(rollout, "load_reward_function", lambda name: {"mine:half": half}[name])
    session, _, _ = roll(tmp_path, result(Outcome.COMPLETED, True, True), reward_fn="mine:half")
    assert session.reward == 0.125 and session.extra["acc"] == 0.25
    session, _, _ = roll(tmp_path, result(Outcome.INFRA_FAILED, False, False), reward_fn="mine:half")
    assert session.reward is None and session.rows == []


def test_the_runner_is_asked_for_the_trials_identity(tmp_path: Path):
    _, asked, _ = roll(tmp_path, result(Outcome.COMPLETED, True, True), split="val")
    [request] = asked
    task = str((tmp_path / "val" / "tasks" / "one").resolve())
    wanted = {"split": "val", "task_dir": task, "task_hash": "sha256:h", "task_id": "one", "sample": 3, "version": "L1:7", "step": 8}
    assert {name: request[name] for name in wanted} == wanted
