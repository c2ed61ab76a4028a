"""The processes that are measured: started one by one, each in a directory of its own, ended by id."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import psutil

from swerl.environment.exports import find_uv

HERE = Path(__file__).resolve().parent
LITELLM = "litellm[proxy]==1.108.7"


class Process:
    """A child with a log. ``cpu_s`` and ``memory_mb`` count its own children too."""

    def __init__(self, name: str, argv: list[str], work: Path, **env: str):
        work.mkdir(parents=True, exist_ok=True)
        self.name, self.log = name, work / f"{name}.log"
        environment = {**os.environ, "PYTHONPATH": str(HERE), **env}
        with self.log.open("wb") as log:
            self.child = subprocess.Popen(argv, stdout=log, stderr=log, env=environment, start_new_session=True)

    def _all(self) -> list[psutil.Process]:
        own = psutil.Process(self.child.pid)
        return [own, *own.children(recursive=True)]

    @property
    def cpu_s(self) -> float:
        return sum(sum(p.cpu_times()[:2]) for p in self._all())

    @property
    def memory_mb(self) -> float:
        return sum(p.memory_info().rss for p in self._all()) / 1e6

    async def until(self, ready: Any, timeout_s: float = 240.0) -> None:
        async with asyncio.timeout(timeout_s):
            while not await ready():
                if self.child.poll() is not None:
                    raise RuntimeError(f"{self.name} ended: {self.log.read_text()[-2000:]}")
                await asyncio.sleep(0.05)

    def stop(self) -> None:
        if self.child.poll() is None:
            os.killpg(self.child.pid, signal.SIGTERM)
            try:
                self.child.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(self.child.pid, signal.SIGKILL)
                self.child.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def answers(url: str) -> bool:
    try:
        async with aiohttp.ClientSession() as client, client.get(url, timeout=aiohttp.ClientTimeout(total=2)) as response:
            return response.status < 500
    except (aiohttp.ClientError, TimeoutError):
        return False


def read_services(work: Path) -> dict[str, Any] | None:
    path = work / "services.json"
    return orjson.loads(path.read_bytes())["gateway"] if path.exists() else None


class OurGateway:
    """Gateway and token engine, ready to serve."""

    def __init__(self, policy: Path, work: Path):
        self.work, self.port = work, free_port()
        argv = ["-m", "swerl.gateway.engines.scripted", "--port", str(self.port), "--script", "bodies:script", "--token", "bench"]
        self.engine = Process("engine", [sys.executable, *argv], work, BENCH_POLICY=str(policy))
        self.gateway = Process("gateway", [sys.executable, str(HERE / "gateway_process.py"), str(policy), str(work)], work)
        self.url = self.admin_url = self.admin_token = ""
        self.engine_url = f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        await self.gateway.until(self._announced)
        await self.engine.until(lambda: answers(self.engine_url))
        await self.admin("POST", "/engine", {"kind": "bridge", "url": self.engine_url, "token": "bench", "epoch": 1, "version": 0})
        await self.gateway.until(self._parsers_ready)

    async def _announced(self) -> bool:
        entry = read_services(self.work)
        if entry is None or entry["pid"] != self.gateway.child.pid:
            return False
        self.url, self.admin_url, self.admin_token = entry["public_url"], entry["admin_url"], entry["admin_token"]
        return True

    async def _parsers_ready(self) -> bool:
        return b"gateway.parsers_ready" in (self.work / "events.jsonl").read_bytes()

    async def admin(self, method: str, path: str, body: Any = None) -> Any:
        headers = {"Authorization": f"Bearer {self.admin_token}"}
        async with (
            aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=None)) as client,
            client.request(method, self.admin_url + path, json=body) as response,
        ):
            assert response.status == 200, await response.text()
            return await response.json()

    async def keys(self, count: int) -> list[str]:
        return [(await self.admin("POST", "/sessions", {"trial": {"sample": i}}))["key"] for i in range(count)]

    def stop(self) -> None:
        self.gateway.stop()
        self.engine.stop()


class LiteLLM:
    """LiteLLM's proxy, one worker, in an environment of its own, in front of the scripted chat server."""

    def __init__(self, work: Path, environment: Path):
        self.upstream_port, self.port = free_port(), free_port()
        self.upstream = Process("chat-upstream", [sys.executable, str(HERE / "chat_upstream.py"), str(self.upstream_port)], work)
        base = f"http://127.0.0.1:{self.upstream_port}/v1"
        model = {"model_name": "policy", "litellm_params": {"model": "openai/policy", "api_base": base, "api_key": "sk-bench"}}
        config = {"model_list": [model], "general_settings": {"master_key": "sk-bench-master"}}
        (work / "litellm.json").write_bytes(orjson.dumps(config))
        argv = [
            str(environment / "bin" / "litellm"),
            "--config",
            str(work / "litellm.json"),
            "--port",
            str(self.port),
            "--host",
            "127.0.0.1",
        ]
        self.proxy = Process("litellm", argv, work, LITELLM_LOCAL_MODEL_COST_MAP="True", LITELLM_LOG="ERROR", PYTHONPATH="")
        self.url, self.upstream_url = f"http://127.0.0.1:{self.port}", f"http://127.0.0.1:{self.upstream_port}"
        self.headers = {"Authorization": "Bearer sk-bench-master"}

    async def start(self) -> None:
        await self.upstream.until(lambda: answers(self.upstream_url))
        await self.proxy.until(lambda: answers(f"{self.url}/health/liveliness"))

    def stop(self) -> None:
        self.proxy.stop()
        self.upstream.stop()


def litellm_environment(directory: Path) -> Path:
    """An environment with the pinned proxy, made once."""
    if not (directory / "bin" / "litellm").exists():
        uv = find_uv(Path(__file__).resolve().parents[2])
        subprocess.run([uv, "venv", "-q", "--clear", "--python", str(Path(sys.executable).resolve()), str(directory)], check=True)
        subprocess.run([uv, "pip", "install", "-q", "--python", str(directory / "bin" / "python"), LITELLM], check=True)
    return directory
