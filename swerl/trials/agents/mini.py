"""`mini`: one tool, one loop, in the runner's process. Import path: ``swerl.trials.agents.mini:MiniAgent``.

It sends the task's instruction, runs every bash call of an answer in the task's working directory, returns the output, and stops at the
first answer without a call. It speaks OpenAI chat completions to ``base_url`` with the session's key as bearer token (``extra_env`` key
SWERL_SESSION_KEY), never streams, and echoes assistant messages exactly as they came, so that the gateway's path stays linear.

While the gateway is away the same request is repeated without limit: how long a trial may take is the runner's clock, which does not count
such time. `stop_reason` says why the loop ended: done, max_turns, context_overflow or malformed_call.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, override

import aiohttp
import orjson
from harbor.agents.base import BaseAgent
from harbor.agents.capabilities import AgentCapabilities
from harbor.environments.base import BaseEnvironment
from harbor.models.agent.context import AgentContext
from harbor.models.trajectories import Agent, FinalMetrics, Metrics, Observation, ObservationResult, Step, ToolCall, Trajectory

SYSTEM = "Fix the bug."
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "bash",
            "description": "Run a shell command.",
            "parameters": {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]},
        },
    }
]
KEY_VARIABLE = "SWERL_SESSION_KEY"
NUDGE = "Go on, or answer again without a call to end."
_BLOCK = re.compile(r"```(?:bash|sh)\n(.*?)```", re.DOTALL)
_AWAY = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, ConnectionError, asyncio.TimeoutError)
_AWAY_STATUS = (429, 500, 502, 503, 504)


class SessionClosed(RuntimeError):
    """The gateway no longer knows this session, and it was not this agent that ended it."""


class AgentProtocolError(RuntimeError):
    """The gateway refused a request of ours as wrong."""


class _Stop(Exception):
    def __init__(self, reason: str):
        self.reason = reason


class MiniAgent(BaseAgent):
    capabilities = AgentCapabilities(base_url=True, atif=True)

    def __init__(
        self,
        logs_dir: Path,
        model_name: str | None = None,
        *,
        base_url: str,
        max_turns: int = 100,
        temperature: float | None = None,
        disable_tool_calls: bool = False,
        max_consecutive_no_tool: int = 0,
        max_output_chars: int = 4000,
        command_timeout_s: int = 60,
        **kwargs: Any,
    ):
        super().__init__(logs_dir, model_name, **kwargs)
        self._url = base_url.rstrip("/") + "/chat/completions"
        self._max_turns, self._temperature = max_turns, temperature
        self._tools, self._silent_limit = not disable_tool_calls, max(1, max_consecutive_no_tool)
        self._max_output_chars, self._command_timeout_s = max_output_chars, command_timeout_s
        self.stop_reason: str | None = None
        self.turns = 0

    @staticmethod
    @override
    def name() -> str:
        return "swerl-mini"

    @override
    def version(self) -> str:
        return "1"

    @property
    @override
    def extra_env(self) -> dict[str, str]:
        """Nothing of it reaches the commands in the sandbox: the key is this process's alone."""
        return {}

    @override
    async def setup(self, environment: BaseEnvironment) -> None:
        return

    @override
    async def run(self, instruction: str, environment: BaseEnvironment, context: AgentContext) -> None:
        instruction = instruction.strip()  # the file ends in a newline, the issue does not
        messages: list[dict[str, Any]] = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": instruction}]
        steps = [_step(1, "system", SYSTEM), _step(2, "user", instruction)]
        usage = {"prompt_tokens": 0, "completion_tokens": 0}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
        try:
            async with aiohttp.ClientSession(timeout=timeout) as http:
                silent = 0
                while self.turns < self._max_turns:
                    answer = await self._ask(http, messages)
                    self.turns += 1
                    message = answer["choices"][0]["message"]
                    for key in usage:
                        usage[key] += (answer.get("usage") or {}).get(key) or 0
                    messages.append(
                        {
                            key: message[key]
                            for key in ("role", "content", "tool_calls", "reasoning_content")
                            if message.get(key) is not None
                        }
                    )
                    messages[-1].setdefault("content", "")
                    calls = self._calls(message)
                    steps.append(_answer_step(len(steps) + 1, message, calls, answer.get("usage") or {}))
                    silent = 0 if calls else silent + 1
                    if silent >= self._silent_limit:
                        raise _Stop("done")
                    if self.turns >= self._max_turns:
                        break  # nobody would read the output
                    if not calls:
                        messages.append({"role": "user", "content": NUDGE})
                        steps.append(_step(len(steps) + 1, "user", NUDGE))
                    for ident, command in calls:
                        output = await self._execute(environment, command)
                        role = {"role": "tool", "tool_call_id": ident} if self._tools else {"role": "user"}
                        messages.append({**role, "content": output})
                        _observe(steps[-1], ident, output)
                self.stop_reason = "max_turns"
        except _Stop as stop:
            self.stop_reason = stop.reason
        finally:
            context.n_input_tokens, context.n_output_tokens = usage["prompt_tokens"], usage["completion_tokens"]
            context.metadata = {"turns": self.turns, "stop": self.stop_reason}
            self._write_trajectory(steps, usage)

    async def _ask(self, http: aiohttp.ClientSession, messages: list[dict[str, Any]]) -> Mapping[str, Any]:
        body: dict[str, Any] = {"model": self.model_name or "policy", "messages": messages}
        if self._tools:
            body["tools"] = TOOLS
        if self._temperature is not None:
            body["temperature"] = self._temperature
        data, tries, delay_s = orjson.dumps(body), 0, 0.1
        while True:
            # The header tells the gateway that this is the same request, so that an answer that was sampled but not delivered counts.
            headers = {"Authorization": f"Bearer {self._extra_env[KEY_VARIABLE]}", "x-stainless-retry-count": str(tries)}
            try:
                async with http.post(self._url, data=data, headers={**headers, "Content-Type": "application/json"}) as response:
                    text = await response.read()
                    if response.status == 200:
                        return orjson.loads(text)
                    if response.status not in _AWAY_STATUS:
                        raise self._refusal(response.status, text)
            except _AWAY:
                pass  # the gateway is down or being restarted; the runner's clock stands still meanwhile
            tries += 1
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 1.6, 2.0)

    def _refusal(self, status: int, text: bytes) -> Exception:
        try:
            error = orjson.loads(text)["error"]
            code, said = error.get("code"), error.get("message")
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            code, said = None, text[:300].decode(errors="replace")
        if code == "context_length_exceeded":
            return _Stop("context_overflow")
        if code == "max_turns_exceeded":
            return _Stop("max_turns")
        return SessionClosed(f"the session is closed: {said}") if status == 401 else AgentProtocolError(f"{status}: {said}")

    def _calls(self, message: Mapping[str, Any]) -> list[tuple[str, str]]:
        """(call id, command) of every call. Anything else in their place ends the trial: the policy broke its form."""
        if not self._tools:
            return [(f"block-{self.turns}", block) for block in _BLOCK.findall(message.get("content") or "")]
        found = []
        for call in message.get("tool_calls") or []:
            try:
                ident, function = call["id"], call["function"]
                command = json.loads(function["arguments"])["command"]
                whole = all(isinstance(text, str) and text.encode() is not None for text in (ident, command))  # no half of a character
            except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
                raise _Stop("malformed_call") from None
            if not whole or function.get("name") != "bash":
                raise _Stop("malformed_call")
            found.append((ident, command))
        return found

    async def _execute(self, environment: BaseEnvironment, command: str) -> str:
        if "\0" in command:
            return "bash: the command holds a NUL byte"
        try:
            done = await environment.exec(command, timeout_sec=self._command_timeout_s)
        except RuntimeError as error:
            if "timed out" in str(error):  # Harbor's environments have no type for it
                return f"(timed out after {self._command_timeout_s} s)"
            raise
        return _trim((done.stdout or "") + (done.stderr or ""), self._max_output_chars).rstrip() or "(no output)"

    def _write_trajectory(self, steps: list[Step], usage: Mapping[str, int]) -> None:
        trajectory = Trajectory(
            session_id=self.session_id,
            agent=Agent(
                name=self.name(), version=self.version(), model_name=self.model_name, tool_definitions=TOOLS if self._tools else None
            ),
            steps=steps,
            final_metrics=FinalMetrics(
                total_prompt_tokens=usage["prompt_tokens"], total_completion_tokens=usage["completion_tokens"], total_steps=len(steps)
            ),
            extra={"stop": self.stop_reason},
        )
        (self.logs_dir / "trajectory.json").write_bytes(orjson.dumps(trajectory.to_json_dict(), option=orjson.OPT_INDENT_2))


def _trim(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat()


def _step(number: int, source: Any, text: str) -> Step:
    return Step(step_id=number, timestamp=_now(), source=source, message=text)


def _answer_step(number: int, message: Mapping[str, Any], calls: list[tuple[str, str]], usage: Mapping[str, Any]) -> Step:
    return Step(
        step_id=number,
        timestamp=_now(),
        source="agent",
        message=message.get("content") or "",
        reasoning_content=message.get("reasoning_content"),
        tool_calls=[ToolCall(tool_call_id=ident, function_name="bash", arguments={"command": command}) for ident, command in calls] or None,
        metrics=Metrics(prompt_tokens=usage.get("prompt_tokens"), completion_tokens=usage.get("completion_tokens")),
        llm_call_count=1,
    )


def _observe(step: Step, ident: str, output: str) -> None:
    results = step.observation.results if step.observation else []
    step.observation = Observation(results=[*results, ObservationResult(source_call_id=ident, content=output)])
