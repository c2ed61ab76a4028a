"""Seven unmodified agents, each at the version of containers/agents.json (terminus-2: of uv.lock), each solving a task in the bubblewrap
sandbox with the gateway as the only network, each with a recording that is what the engine was given and what it sampled."""

from __future__ import annotations

import pytest
from agentkit import Played, play

from swerl.gateway.engines.scripted import scripted_logprob
from swerl.record.outcomes import Outcome

pytestmark = [pytest.mark.trials, pytest.mark.long]

# Agent: turns of the task, and the differences between the client's copies of our turns and our turns that it is known for.
AGENTS = {
    "claude-code": (3, {"arguments"}),
    "codex": (3, set()),
    "opencode": (3, {"serialisation"}),
    "qwen-coder": (3, {"serialisation"}),
    "mini-swe-agent": (3, set()),
    "openhands-sdk": (3, set()),
    "terminus-2": (4, set()),
}


@pytest.mark.parametrize("agent", AGENTS)
def test_an_agent_solves_a_task_and_is_recorded(tmp_path, agent):
    turns, rewrites = AGENTS[agent]
    played = play(tmp_path, agent)
    result, recording = played.result, played.recording
    assert (result.outcome, result.reward) == (Outcome.COMPLETED, 1.0), result
    assert recording["status"] == "closed: grading" and recording["turns"] == turns and not recording["rerendered"]
    assert_exact(played)
    kinds = {kind for event in played.events if event["kind"] == "gateway.rewrite" for kind in event["kinds"]}
    assert rewrites <= kinds


def assert_exact(played: Played) -> None:
    """Each sampled token is trained once, with its own log-probability, behind exactly the tokens that the engine was given."""
    task = [request for request in played.requests if request["tools"] or not any(r["tools"] for r in played.requests)]
    sampled_once: dict[tuple[int, ...], int] = {}
    for path in played.recording["paths"]:
        whole = [*path["prompt_ids"], *path["response_ids"]]
        start = len(path["prompt_ids"])
        for at in _turn_starts(path["response_mask"]):
            request = next(r for r in task if r["prompt"] == whole[: start + at])
            end = at + len(request["sampled"])
            assert path["response_ids"][at:end] == request["sampled"] and set(path["response_mask"][at:end]) == {1}
            logprobs = [scripted_logprob(token, start + at + i) for i, token in enumerate(request["sampled"])]
            assert path["response_logprobs"][at:end] == logprobs
            sampled_once[tuple(whole[: start + end])] = sampled_once.get(tuple(whole[: start + end]), 0) + 1
    assert sum(sampled_once.values()) == len(sampled_once) == len(task) == played.recording["turns"]
    assert played.recording["side_calls"] == len(played.requests) - len(task)
    assert len(played.recording["paths"]) == 1 and played.recording["paths"][0]["main"]


def _turn_starts(mask: list[int]) -> list[int]:
    return [i for i, one in enumerate(mask) if one and (i == 0 or not mask[i - 1])]
