"""What the red team's files share: a task graded as carelessly as tasks are, and commands that plant files and chains of links."""

from __future__ import annotations

import asyncio
import base64
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trialkit import Running, make_task, script, settings_for

CARELESS = """#!/bin/bash
cd /app
if PYTHONPATH=/app:/tests timeout 20 python3 -m unittest -q test_calc; then echo 1 > /logs/verifier/reward.txt
else echo 0 > /logs/verifier/reward.txt; fi
"""
PLAYED: list[tuple[str, float | None, str, list[str]]] = []
MINI = {"import_path": "swerl.trials.agents.mini:MiniAgent", "kwargs": {"max_turns": 9, "command_timeout_s": 8}}


def put(path: str, text: str) -> str:
    """A command that writes ``text``; coded, so that the text itself is not in the transcript."""
    return f"mkdir -p $(dirname {path}); echo {base64.b64encode(text.encode()).decode()} | base64 -d > {path}"


def chain(name: str, target: str | Path, depth: int = 40) -> str:
    """A command that makes ``name`` a link which stays inside by its text and leads to ``target`` of the host: a link that goes up lies
    ``depth`` levels down, and behind it as many '..' again reach the host's root."""
    deep, up = "/".join(f"d{level}" for level in range(depth)), "/".join([".."] * depth)
    return f"mkdir -p {deep}; ln -s {up} {deep}/up; ln -s {deep}/up/{up}{target} {name}"


def chain_python(name: str, target: str | Path, depth: int = 40) -> str:
    """The same for tested code, below the directory where it is; as often as the tests are run."""
    deep, up = "/".join(f"d{level}" for level in range(depth)), "/".join([".."] * depth)
    links = {f"{deep}/up": up, name: f"{deep}/up/{up}{target}"}
    return f"import os\nos.makedirs({deep!r}, exist_ok=True)\nfor a, b in {links!r}.items():\n    os.path.lexists(a) or os.symlink(b, a)\n"


@dataclass(frozen=True)
class Played:
    """``kinds``: of findings; ``seen``: what the policy was told of its commands, in order; ``kept``: the trial's directory."""

    result: Any
    kinds: set[str]
    seen: list[str]
    running: Running

    @property
    def kept(self) -> Path:
        return self.running.settings.trials_dir / self.result.trial_name


def note(result: Any, kinds: set[str]) -> None:
    """A row of the table that the red team ends with."""
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition("::")[2].rpartition(" ")[0]
    PLAYED.append((test.removeprefix("test_"), result.reward, result.outcome.value, sorted(kinds)))


def play(tmp_path: Path, *commands: str, policy: Any = None, task: Path | None = None, agent: Any = MINI, **settings: Any) -> Played:
    """One trial of `make_task` (or ``task``) with one attempt, whose agent runs the commands, one a turn, and ends. ``mounts``: into the
    sandboxes, as Harbor's configuration has them."""

    async def main() -> Played:
        made = {name: settings.pop(name) for name in ("files", "verifier_timeout") if name in settings}
        mounts = settings.pop("mounts", None)
        where = task or make_task(tmp_path, test_sh=CARELESS, **made)
        sandbox = settings_for(tmp_path).sandbox
        sandbox = {**sandbox, "limits": {**sandbox["limits"], "inodes": 200_000}}
        how = {"max_attempts": 1, "agent": agent, "sandbox": sandbox, **settings}
        async with Running(tmp_path / "run", policy or script(*commands), **how) as running:
            if mounts:
                running.runner.settings.harbor["environment"]["mounts"] = mounts
            result = await running.run(where)
            seen = [m["content"] for request in running.gateway.requests[-1:] for m in request["messages"] if m["role"] == "tool"]
            kinds = {event["what"] for event in running.events("trial.finding")}
            note(result, kinds)
            return Played(result, kinds, seen, running)

    return asyncio.run(main())
