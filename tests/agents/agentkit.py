"""One trial of one unmodified agent: our runner, our sandbox, the real gateway with a scripted engine, and nothing else to talk to."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trialkit import make_task, request_for, settings_for

from swerl.environment.agents import is_current, table_digest
from swerl.facts.sandbox import MOUNT
from swerl.trials.gateway import GatewayAdmin
from swerl.trials.service import Runner

ROOT = Path(__file__).resolve().parents[2]
RUNTIMES = ROOT / "build" / "agents"
PATH = f"{MOUNT}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Played:
    """``requests`` are the engine's, in order: prompt and sampled tokens, prompt text, whether it showed tools."""

    result: Any
    recording: Mapping[str, Any]
    requests: list[dict[str, Any]]
    events: list[dict[str, Any]]
    trial_dir: Path


def runtimes() -> Path:
    """The directory that `make agents` fills, made from today's table."""
    assert is_current(RUNTIMES, table_digest(ROOT)), "the agents are not installed here as the table says: run `make agents`"
    return RUNTIMES


def play(tmp_path: Path, agent: str, kwargs: Mapping[str, Any] | None = None, limits: Mapping[str, int] | None = None) -> Played:
    task, run = make_task(tmp_path), tmp_path / "run"
    (run / "events").mkdir(parents=True)
    mounts = [{"type": "bind", "source": str(runtimes()), "target": MOUNT, "read_only": True}]
    if agent == "openhands-sdk":
        mounts.append({"type": "bind", "source": str(RUNTIMES / agent), "target": "/opt/openhands-sdk-venv", "read_only": True})
    settings = settings_for(
        run,
        agent={"name": agent, "model_name": "hosted_vllm/policy", "kwargs": {"skip_install": True, **(kwargs or {})}},
        agent_timeout=400,
        max_turns=12,
        max_attempts=1,
    )
    settings.harbor["environment"].update(mounts=mounts, env={"PATH": PATH})
    settings.sandbox["limits"].update({"disk_mb": 512, "memory_mb": 4096, "processes": 512, **(limits or {})})
    line = [ROOT / ".venv" / "train" / "bin" / "python", Path(__file__).with_name("agent_gateway.py"), run, agent]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as gateway:
        try:
            assert gateway.stdout is not None and gateway.stdout.readline() == "ready\n"
            result, recording = asyncio.run(_trial(settings, run, task))
        finally:
            gateway.terminate()
    lines = [json.loads(text) for text in (run / "engine.jsonl").read_text().splitlines()] if (run / "engine.jsonl").exists() else []
    events = [json.loads(text) for text in (run / "events" / "gateway.jsonl").read_text().splitlines()]
    return Played(result, recording, lines, events, run / "trials")


async def _trial(settings: Any, run: Path, task: Path) -> tuple[Any, Mapping[str, Any]]:
    runner, admin = Runner(settings), GatewayAdmin(run / "services.json")
    await runner.start()
    try:
        result = await runner.scheduler.ask(request_for(task))
        recording = await admin._call("GET", f"/sessions/{result.session}/recording") if result.session else {}
    finally:
        await admin.shut()
        await runner.stop()
    return result, recording
