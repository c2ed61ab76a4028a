"""Parts that the runner's tests share: a small task, a stand-in for the gateway, a runner on a temporary run directory.

`FakeGateway` has the gateway's admin and chat surface and a scripted policy; it exists so that the runner can be tested alone. The
end-to-end test uses the real one.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import pickle
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from aiohttp import web

from swerl.record.model import Identity, TrialRequest
from swerl.record.services import announce
from swerl.record.session_journal import journal_path
from swerl.trials.backends import Bubblewrap
from swerl.trials.service import Runner
from swerl.trials.settings import RunnerSettings

TASK_TOML = """schema_version = "1.4"
[task]
name = "swerl/{name}"
[environment]
docker_image = "swerl/host"
workdir = "/app"
[agent]
timeout_sec = 60
[verifier]
timeout_sec = {verifier_timeout}
"""
TEST_SH = """#!/bin/bash
cd /tests
if PYTHONPATH=/app timeout 10 python3 -S -m unittest -q test_calc; then echo 1 > /logs/verifier/reward.txt
else echo 0 > /logs/verifier/reward.txt; fi
"""
CALC = "def add(a, b):\n    return a - b\n"
FIX = "sed -i '2s/a - b/a + b/' calc.py"


def make_task(
    directory: Path, name: str = "add", files: dict[str, str] | None = None, test_sh: str = TEST_SH, verifier_timeout: int = 30
) -> Path:
    task = directory / name
    for part in ("environment", "tests", "solution"):
        (task / part).mkdir(parents=True)
    (task / "task.toml").write_text(TASK_TOML.format(name=name, verifier_timeout=verifier_timeout))
    (task / "instruction.md").write_text("add(2, 3) in calc.py gives -1, not 5.\n")
    for path, text in (files or {"calc.py": CALC}).items():
        (task / "environment" / path).parent.mkdir(parents=True, exist_ok=True)
        (task / "environment" / path).write_text(text)
    (task / "solution" / "solve.sh").write_text(f"#!/bin/bash\ncd /app && {FIX}\n")
    (task / "tests" / "test.sh").write_text(test_sh)
    (task / "tests" / "test_calc.py").write_text(
        "import unittest\nfrom calc import add\n\n\nclass T(unittest.TestCase):\n"
        "    def test_add(self):\n        self.assertEqual(add(2, 3), 5)\n"
    )
    return task


def call(command: str) -> dict[str, Any]:
    """An assistant message that runs one command."""
    function = {"name": "bash", "arguments": orjson.dumps({"command": command}).decode()}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": f"call-{secrets.token_hex(4)}", "type": "function", "function": function}],
    }


def say(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def script(*commands: str) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
    """A policy that runs these commands, one a turn, and then says done."""

    def policy(messages: list[dict[str, Any]]) -> dict[str, Any]:
        turn = sum(message["role"] == "assistant" for message in messages)
        return call(commands[turn]) if turn < len(commands) else say("done")

    return policy


IDLE = script()


class FakeGateway:
    """``policy(messages)`` returns the assistant's message, raises web.HTTPException to refuse, or is a coroutine function."""

    def __init__(self, services: Path, policy: Callable[..., Any] = IDLE):
        self.services, self.policy = services, policy
        self.sessions: dict[str, dict[str, Any]] = {}
        self.keys: dict[str, str] = {}
        self.requests: list[dict[str, Any]] = []
        self._token = secrets.token_hex(8)
        self._sites: list[web.AppRunner] = []
        self.port = 0
        self.engine_answers, self.asked_for_engine = True, 0

    async def start(self) -> FakeGateway:
        public, admin = web.Application(), web.Application()
        public.add_routes([web.post("/v1/chat/completions", self._chat), web.get("/health/liveliness", self._alive)])
        admin.add_routes(
            [
                web.post("/sessions", self._open),
                web.post("/sessions/{id}/close", self._close),
                web.get("/sessions/{id}/hold", self._hold),
                web.get("/stats", self._stats),
            ]
        )
        ports = []
        for app, port in ((public, self.port), (admin, 0)):
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            listener = socket.create_server(("127.0.0.1", port))
            await web.SockSite(runner, listener).start()
            self._sites.append(runner)
            ports.append(listener.getsockname()[1])
        self.port = ports[0]
        announce(
            self.services,
            "gateway",
            {"public_url": f"http://127.0.0.1:{ports[0]}", "admin_url": f"http://127.0.0.1:{ports[1]}", "admin_token": self._token},
        )
        return self

    async def stop(self) -> None:
        for site in self._sites:
            await site.cleanup()
        self._sites.clear()

    def of(self, **trial: Any) -> list[dict[str, Any]]:
        return [s for s in self.sessions.values() if all(s["trial"][key] == value for key, value in trial.items())]

    async def _alive(self, _: web.Request) -> web.Response:
        return web.Response(text="alive")

    async def _open(self, request: web.Request) -> web.Response:
        body, key = await request.json(), secrets.token_hex(32)
        session = hashlib.sha256(key.encode()).hexdigest()[:16]
        limits = {"overflow": False, "max_turns_hit": False, "unanswered": 0, "answered_at": None}
        self.sessions[session] = {**body, "key": key, "closed": None, "turns": 0, "hold_s": 0.0, **limits}
        self.keys[key] = session
        self._record(session, {"k": "open", "trial": body["trial"]})
        return web.json_response({"session": session, "key": key})

    def _record(self, session: str, line: dict[str, Any]) -> None:
        """What the runner reads of a session's journal, in the gateway's form."""
        journal = journal_path(self.services.parent / "gateway" / "sessions", session)
        journal.parent.mkdir(parents=True, exist_ok=True)
        with journal.open("ab") as file:
            file.write(json.dumps(line, ensure_ascii=False).encode("utf-8", "replace") + b"\n")

    async def _close(self, request: web.Request) -> web.Response:
        session = self.sessions[request.match_info["id"]]
        session["closed"] = session["closed"] or (await request.json())["reason"]
        told = {"overflow": session["overflow"], "max_turns": session["max_turns_hit"], "unanswered": session["unanswered"]}
        silent_s = None if session["answered_at"] is None else time.monotonic() - session["answered_at"]
        return web.json_response({"turns": session["turns"], "hold_s": session["hold_s"], "aborted": 0, **told, "silent_s": silent_s})

    async def _hold(self, request: web.Request) -> web.Response:
        return web.json_response({"hold_s": self.sessions[request.match_info["id"]]["hold_s"]})

    async def _stats(self, _: web.Request) -> web.Response:
        self.asked_for_engine += 1
        return web.json_response({"answers": self.engine_answers})

    async def _chat(self, request: web.Request) -> web.Response:
        key = request.headers.get("Authorization", "").removeprefix("Bearer ")
        session = self.sessions.get(self.keys.get(key, ""))
        if session is None or session["closed"]:
            return web.json_response({"error": {"code": "session_closed", "message": "unknown or closed"}}, status=401)
        body = await request.json()
        self.requests.append(body)
        answer = self.policy(body["messages"])
        if asyncio.iscoroutine(answer):
            answer = await answer
        session["turns"] += 1
        session["answered_at"] = time.monotonic()
        calls = [call.get("function") or {} for call in answer.get("tool_calls") or []]
        told = [["", str(call.get("name")), str(call.get("arguments"))] for call in calls]
        self._record(self.keys[key], {"k": "turn", "answer": {"content": answer.get("content") or "", "reasoning": None, "calls": told}})
        return web.json_response({"choices": [{"index": 0, "message": answer}], "usage": {"prompt_tokens": 10, "completion_tokens": 5}})


def overflow() -> web.Response:
    error = {"error": {"code": "context_length_exceeded", "message": "too long"}}
    raise web.HTTPBadRequest(body=orjson.dumps(error), content_type="application/json")


def settings_for(run_dir: Path, **changes: Any) -> RunnerSettings:
    """A runner of the mini agent in bubblewrap, on a fresh run directory."""
    agent = changes.pop(
        "agent", {"import_path": "swerl.trials.agents.mini:MiniAgent", "model_name": "hosted_vllm/policy", "kwargs": {"max_turns": 4}}
    )
    agent = {"override_timeout_sec": changes.pop("agent_timeout", None), "max_timeout_sec": None, **agent}
    settings = RunnerSettings(
        run_dir=run_dir,
        trials_dir=run_dir / "trials" / "project" / run_dir.name,
        harbor={
            "agent": agent,
            "environment": {"import_path": Bubblewrap.path, "kwargs": {}},
            "verifier": {"disable": changes.pop("disable_verifier", False)},
        },
        sandbox={"network": "gateway", "rootfs": None, "work_dir": str(run_dir / "sandboxes"), "limits": {"disk_mb": 64, "memory_mb": 512}},
        max_turns=4,
        retry_budget=10.0,
    )
    return replace(settings, **changes)


def request_for(task: Path, sample: int = 0, split: str = "train", version: str = "a:0", step: int = 1) -> TrialRequest:
    digest = hashlib.sha256(str(task).encode()).hexdigest()
    return TrialRequest(Identity(split, f"sha256:{digest}", sample, version), task, task.name, step)


def body_for(request: TrialRequest) -> dict[str, Any]:
    who = request.identity
    return {
        "split": who.split,
        "task_dir": str(request.task_dir),
        "task_hash": who.task_hash,
        "task_id": request.task_id,
        "sample": who.sample,
        "version": who.version,
        "step": request.step,
    }


class Running:
    """A gateway stand-in and a runner, up for the time of a ``with``."""

    def __init__(self, run_dir: Path, policy: Callable[..., Any] = IDLE, **changes: Any):
        run_dir.mkdir(exist_ok=True)
        self.settings = settings_for(run_dir, **changes)
        self.gateway = FakeGateway(self.settings.services_path, policy)
        self.runner = Runner(self.settings)

    async def __aenter__(self) -> Running:
        await self.gateway.start()
        await self.runner.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.runner.stop()
        await self.gateway.stop()

    async def run(self, task: Path, **who: Any) -> Any:
        return await self.runner.scheduler.ask(request_for(task, **who))

    def events(self, kind: str) -> list[dict[str, Any]]:
        from swerl.record.events import read_events

        return [event for event in read_events(self.settings.events_path) if event["kind"] == kind]

    async def post(self, path: str, body: Any, token: str | None = None) -> tuple[int, Any]:
        entry = orjson.loads(self.settings.services_path.read_bytes())["runner"]
        headers = {"Authorization": f"Bearer {token or entry['token']}"}
        async with aiohttp.ClientSession() as http, http.post(entry["url"] + path, json=body, headers=headers) as answer:
            return answer.status, await answer.json()


def runner_process(settings: RunnerSettings) -> subprocess.Popen[bytes]:
    """The service in a process of its own, as the supervisor runs it, on these settings; returns once it has announced itself."""
    load = f"pickle.loads({pickle.dumps(settings)!r})"
    code = f"import asyncio, pickle; from swerl.trials.__main__ import serve; asyncio.run(serve({load}))"
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline().startswith(b"runner: http://127.0.0.1:")
    return process


async def ask(settings: RunnerSettings, request: TrialRequest, timeout_s: float = 120.0) -> dict[str, Any]:
    """POST /trials of whatever runner serves the run now."""
    entry = orjson.loads(settings.services_path.read_bytes())["runner"]
    headers = {"Authorization": f"Bearer {entry['token']}"}
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    async with (
        aiohttp.ClientSession(timeout=timeout) as http,
        http.post(entry["url"] + "/trials", json=body_for(request), headers=headers) as answer,
    ):
        return {"status": answer.status, **await answer.json()}
