"""The mini agent against a scripted gateway and a sandbox stand-in that records commands: protocol, endings, patience."""

import asyncio
from types import SimpleNamespace

import orjson
import pytest
from aiohttp import web
from harbor.models.agent.context import AgentContext
from harbor.models.trajectories import Trajectory
from trialkit import FakeGateway, call, overflow, say, script

from swerl.trials.agents.mini import KEY_VARIABLE, NUDGE, SYSTEM, TOOLS, AgentProtocolError, MiniAgent, SessionClosed


class Shell:
    def __init__(self, answer=lambda command: ("", "", 0)):
        self.commands, self.answer = [], answer

    async def exec(self, command, timeout_sec=None):
        self.commands.append(command)
        out, err, code = self.answer(command)
        return SimpleNamespace(stdout=out, stderr=err, return_code=code)


def play(tmp_path, policy, shell=None, before=None, **kwargs):
    """Run one trial's worth of the agent; (agent, requests, context)."""

    async def main():
        gateway = await FakeGateway(tmp_path / "services.json", policy).start()
        key = "k" * 64
        gateway.sessions["s"] = {"closed": None, "turns": 0}
        gateway.keys[key] = "s"
        agent = MiniAgent(tmp_path, "policy", base_url=f"http://127.0.0.1:{gateway.port}/v1", extra_env={KEY_VARIABLE: key}, **kwargs)
        context = AgentContext()
        try:
            if before:
                await before(gateway, agent)
            await agent.run("Do it.", shell or Shell(), context)
        finally:
            await gateway.stop()
            agent.seen = gateway.requests
        return agent, gateway.requests, context

    return asyncio.run(main())


def test_the_demo_protocol(tmp_path):
    shell = Shell(lambda command: ("     1\tdef f():\n", "", 0) if command.startswith("cat") else ("", "", 0))
    agent, requests, context = play(tmp_path, script("cat -n f.py", "sed -i '1s/f/g/' f.py"), shell)
    assert shell.commands == ["cat -n f.py", "sed -i '1s/f/g/' f.py"]
    assert agent.stop_reason == "done" and agent.turns == 3
    assert requests[0]["messages"] == [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "Do it."}]
    assert requests[0]["tools"] == TOOLS and not requests[0].get("stream")
    tools = [message["content"] for message in requests[2]["messages"] if message["role"] == "tool"]
    assert tools == ["     1\tdef f():", "(no output)"]
    assert requests[2]["messages"][2]["tool_calls"][0]["id"] == requests[2]["messages"][3]["tool_call_id"]
    assert (context.n_input_tokens, context.n_output_tokens) == (30, 15)
    trajectory = Trajectory.model_validate_json((tmp_path / "trajectory.json").read_bytes())
    assert [step.source for step in trajectory.steps] == ["system", "user", "agent", "agent", "agent"]
    assert trajectory.steps[2].observation.results[0].content == "     1\tdef f():"


def test_the_key_reaches_no_command_and_no_file(tmp_path):
    agent, _, _ = play(tmp_path, script("env"))
    assert agent.extra_env == {}
    assert b"kkkkkkkk" not in (tmp_path / "trajectory.json").read_bytes()


def test_turn_limit_ends_without_running_the_last_call(tmp_path):
    shell = Shell()
    agent, requests, _ = play(tmp_path, script("a", "b", "c", "d"), shell, max_turns=2)
    assert agent.stop_reason == "max_turns" and shell.commands == ["a"] and len(requests) == 2


@pytest.mark.parametrize(
    "message",
    [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "x", "type": "function", "function": {"name": "bash", "arguments": "{"}}],
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "x", "type": "function", "function": {"name": "bash", "arguments": '{"cmd": 1}'}}],
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "x", "type": "function", "function": {"name": "bash", "arguments": '{"command": 1}'}}],
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "x", "type": "function", "function": {"name": "sh", "arguments": '{"command": "a"}'}}],
        },
    ],
)
def test_a_malformed_call_ends_the_trial(tmp_path, message):
    shell = Shell()
    agent, _, _ = play(tmp_path, lambda messages: message, shell)
    assert agent.stop_reason == "malformed_call" and shell.commands == []
    assert (tmp_path / "trajectory.json").exists()


def test_output_is_trimmed_and_both_streams_count(tmp_path):
    shell = Shell(lambda command: ("o" * 5000, "e" * 5000, 1))
    _, requests, _ = play(tmp_path, script("a"), shell, max_output_chars=100)
    text = requests[1]["messages"][-1]["content"]
    assert text.startswith("o" * 50 + "\n") and text.endswith("e" * 50) and "9900 characters left out" in text


def test_context_overflow_is_an_ending(tmp_path):
    agent, _, _ = play(tmp_path, lambda messages: overflow())
    assert agent.stop_reason == "context_overflow"


def test_refusals_are_errors_with_names(tmp_path):
    def refuse(messages):
        raise web.HTTPBadRequest(body=orjson.dumps({"error": {"code": "bad", "message": "no"}}), content_type="application/json")

    with pytest.raises(AgentProtocolError, match="400: no"):
        play(tmp_path, refuse)

    async def close(gateway, agent):
        gateway.sessions["s"]["closed"] = "x"

    with pytest.raises(SessionClosed):
        play(tmp_path, script("a"), before=close)


def test_a_gateway_that_goes_and_comes_back_is_asked_again(tmp_path):
    calls = []

    def policy(messages):
        calls.append(len(messages))
        if len(calls) == 1:
            raise web.HTTPServiceUnavailable
        return script("a")(messages)

    async def away(gateway, agent):
        await gateway.stop()
        asyncio.get_running_loop().call_later(0.5, lambda: asyncio.ensure_future(gateway.start()))

    agent, requests, _ = play(tmp_path, policy, before=away)
    assert agent.stop_reason == "done"
    assert requests[0] == requests[1]  # the same request, word for word


def test_no_tool_rule_and_text_mode(tmp_path):
    def policy(messages):
        turn = sum(message["role"] == "assistant" for message in messages)
        return [say("thinking"), call("ls"), say("one"), say("two")][turn]

    agent, requests, _ = play(tmp_path, policy, max_consecutive_no_tool=2)
    assert agent.turns == 4 and agent.stop_reason == "done"
    assert [message["content"] for message in requests[-1]["messages"] if message["role"] == "user"] == ["Do it.", NUDGE, NUDGE]
    shell = Shell(lambda command: ("out", "", 0))
    blocks = iter([say("Look:\n```bash\nls\n```\nand\n```bash\npwd\n```"), say("finished")])
    agent, requests, _ = play(tmp_path, lambda messages: next(blocks), shell, disable_tool_calls=True)
    assert (
        shell.commands == ["ls\n", "pwd\n"]
        and "tools" not in requests[0]
        and requests[1]["messages"][-1] == {"role": "user", "content": "out"}
    )
