"""The real gateway with an engine that plays one agent's policy: ``python agent_gateway.py RUN_DIR AGENT`` (train environment).

The policy reads the file, repairs it and says done, in the words of AGENT's tools. Every request of the engine goes into
``RUN_DIR/engine.jsonl`` with the tokens it was answered with: the truth that a recording is compared with.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "gateway"))
from gatewaykit import CHATML, write_model

from swerl.gateway.engines.scripted import ScriptedEngine, ScriptReply, ScriptTurn, register
from swerl.gateway.service import Gateway
from swerl.gateway.settings import GatewaySettings

LOOK = "cd /app && cat calc.py"  # Claude Code drops the `cd` from its copy of this call
FIX = "sed -i '2s/a - b/a + b/' calc.py"
SUBMIT = "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"


def call(tool: str, **arguments: object) -> str:
    return f'<tool_call>\n{{"name": "{tool}", "arguments": {json.dumps(arguments)}}}\n</tool_call>'


def keys(text: str, done: bool = False) -> str:
    commands = [] if done else [{"keystrokes": f"{text}\n", "duration": 0.5}]
    return json.dumps({"analysis": "as planned", "plan": "go on", "commands": commands, "task_complete": done})


POLICIES: dict[str, tuple[str, ...]] = {
    "claude-code": (call("Bash", command=LOOK, description="look"), call("Bash", command=FIX, description="repair"), "It adds now."),
    "codex": (call("exec_command", cmd=LOOK), call("exec_command", cmd=FIX), "It adds now."),
    "opencode": (call("bash", command=LOOK, description="look"), call("bash", command=FIX, description="repair"), "It adds now."),
    "qwen-coder": (
        call("run_shell_command", command=LOOK, is_background=False),
        call("run_shell_command", command=FIX, is_background=False),
        "It adds now.",
    ),
    "mini-swe-agent": (call("bash", command=LOOK), call("bash", command=FIX), call("bash", command=SUBMIT)),
    "openhands-sdk": (
        call("terminal", command=LOOK, security_risk="LOW", summary="look"),
        call("terminal", command=FIX, security_risk="LOW", summary="repair"),
        call("finish", message="It adds now."),
    ),
    "terminus-2": (keys(LOOK), keys(FIX), keys("", done=True), keys("", done=True)),
}


class Policy:
    """Answers by how far the conversation is. A request without the agent's tools (a title) gets a line of text."""

    def __init__(self, agent: str, log: Path):
        self._steps, self._log = POLICIES[agent], log
        self._engine: ScriptedEngine | None = None

    def on(self, engine: ScriptedEngine) -> None:
        self._engine = engine

    def __call__(self, turn: ScriptTurn) -> ScriptReply:
        assert turn.text is not None and self._engine is not None and self._engine.tokenizer is not None
        in_text = not self._steps[0].startswith("<tool_call>")
        marker = "<|im_start|>assistant" if in_text else "\n<tool_response>\n"
        done = turn.text.count(marker) - in_text
        text = self._steps[min(done, len(self._steps) - 1)] if in_text or "Tools:\n" in turn.text else "Repair of add"
        ids = [*self._engine.tokenizer.encode(text), self._engine.stop_ids[-1]]
        line = {"prompt": list(turn.prompt_ids), "sampled": ids, "text": turn.text, "tools": "Tools:\n" in turn.text}
        with self._log.open("a") as log:
            log.write(json.dumps(line) + "\n")
        return ScriptReply(token_ids=ids)


async def main(run_dir: Path, agent: str) -> None:
    model = run_dir / "model"
    model.mkdir()
    write_model(model, CHATML)
    policy = Policy(agent, run_dir / "engine.jsonl")
    engine = ScriptedEngine(policy, model)
    policy.on(engine)
    await engine.start()
    settings = GatewaySettings(
        model_path=model,
        journal_dir=run_dir / "gateway",
        events_path=run_dir / "events" / "gateway.jsonl",
        services_path=run_dir / "services.json",
        tool_parser="hermes",
        window_tokens=400_000,
    )
    gateway = Gateway(settings)
    await gateway.start()
    await register(engine, settings.services_path)
    print("ready", flush=True)
    await gateway.ended.wait()
    await gateway.stop()
    await engine.stop()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
