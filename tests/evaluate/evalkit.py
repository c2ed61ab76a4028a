"""Parts of the evaluation's end-to-end tests: small tasks, a policy directory without weights, and two servers that answer from a script.

``python evalkit.py vllm RUN_DIR MODEL_DIR`` stands in for the vLLM server of an evaluation: token ids in, token ids out, at the place that
the order names. ``python evalkit.py openai PORT`` is somebody's OpenAI-compatible server. Both repair every task but those whose
instruction says "hard".
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import orjson
from aiohttp import web

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "gateway"))
from gatewaykit import CHATML, call_text, write_model

from swerl.data import index
from swerl.evaluate import order
from swerl.record.rundir import RunDir
from swerl.record.services import announce

FIX = "sed -i 's/a - b/a + b/' calc.py"
TOML = """schema_version = "1.4"
[task]
name = "swerl/{name}"
[environment]
docker_image = "swerl/host"
workdir = "/app"
[agent]
timeout_sec = 120
[verifier]
timeout_sec = 120
"""
TEST_SH = """#!/bin/bash
cd /app
if grep -q 'a + b' calc.py; then echo 1; else echo 0; fi > /logs/verifier/reward.txt
"""


def make_tasks(directory: Path, names: list[str]) -> Path:
    """An index of one task a name."""
    for name in names:
        task = directory / name
        for part in ("environment", "tests", "solution"):
            (task / part).mkdir(parents=True)
        (task / "task.toml").write_text(TOML.format(name=name))
        (task / "instruction.md").write_text(f"{name}: add(2, 3) gives -1.\n")
        (task / "environment" / "calc.py").write_text("def add(a, b):\n    return a - b\n")
        (task / "solution" / "solve.sh").write_text(f"#!/bin/bash\ncd /app && {FIX}\n")
        (task / "tests" / "test.sh").write_text(TEST_SH)
    path = directory / "index.parquet"
    index.write(path, index.build(directory, "val"))
    return path


def make_policy(directory: Path) -> Path:
    """What the gateway needs of a policy; its weights are never read."""
    directory.mkdir(parents=True)
    write_model(directory, CHATML)
    (directory / "config.json").write_text(json.dumps({"model_type": "qwen3", "vocab_size": 1000}))
    (directory / "model.safetensors").write_bytes(b"no weights")
    return directory


def repairs(prompt: str) -> bool:
    return "hard" not in prompt


async def vllm(run: RunDir, model: Path) -> None:
    """The engine as `swerl.evaluate.engine` would be: announced, healthy, and asked by the gateway. Slow, if STANDIN_DELAY_S says so."""
    from swerl.gateway.tokenizer import load_tokenizer, stop_token_ids

    tokenizer = load_tokenizer(model)
    stop = sorted(stop_token_ids(model, tokenizer))[-1]
    asked = order.read(run)
    assert asked is not None

    async def generate(request: web.Request) -> web.Response:
        body = orjson.loads(await request.read())
        await asyncio.sleep(float(os.environ.get("STANDIN_DELAY_S", "0")))
        text = tokenizer.decode(body["token_ids"], skip_special=False)
        last = text.rpartition("<|im_start|>user")[2]
        said = call_text(FIX) if repairs(text) and "(no output)" not in last else "done"
        ids = [*tokenizer.encode(said), stop]
        content = [{"logprob": -0.5} for _ in ids]
        events = [
            {"choices": [{"token_ids": ids, "logprobs": {"content": content}, "finish_reason": "stop"}]},
            {"choices": [], "usage": {"prompt_tokens_details": {"cached_tokens": 3}}},
        ]
        data = b"".join(b"data: %b\n\n" % orjson.dumps(event) for event in events) + b"data: [DONE]\n\n"
        return web.Response(body=data, content_type="text/event-stream")

    async def health(request: web.Request) -> web.Response:
        return web.Response()

    await _serve({"/inference/v1/generate": generate}, {"/health": health}, asked.engine_port)
    announce(run.services, "engine", {"url": f"http://127.0.0.1:{asked.engine_port}"})
    await asyncio.Event().wait()


async def openai(port: int) -> None:
    """Wants the key "upstream-key-0123456789" and the model "theirs"; refuses every third request for a moment, as busy servers do."""
    asked = 0

    async def chat(request: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        body = orjson.loads(await request.read())
        if request.headers.get("Authorization") != "Bearer upstream-key-0123456789" or body["model"] != "theirs":
            return web.json_response({"error": {"message": "who are you?"}}, status=401)
        if asked % 3 == 0:
            return web.json_response({"error": {"message": "slow down"}}, status=429)
        if repairs(str(body["messages"])) and body["messages"][-1]["role"] != "tool":
            function = {"name": "bash", "arguments": json.dumps({"command": FIX})}
            calls = [{"id": f"call-{asked}", "type": "function", "function": function}]
            message = {"role": "assistant", "content": None, "tool_calls": calls}
        else:
            message = {"role": "assistant", "content": "done"}
        usage = {"prompt_tokens": 50, "completion_tokens": 9}
        return web.json_response({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage})

    async def models(request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "theirs"}]})

    await _serve({"/v1/chat/completions": chat}, {"/v1/models": models}, port)
    print("ready", flush=True)
    await asyncio.Event().wait()


async def _serve(posts: dict, gets: dict, port: int) -> None:
    app = web.Application(client_max_size=1 << 26)
    app.add_routes([*(web.post(path, handler) for path, handler in posts.items()), *(web.get(p, h) for p, h in gets.items())])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, reuse_address=True).start()


if __name__ == "__main__":
    if sys.argv[1] == "vllm":
        asyncio.run(vllm(RunDir.at(sys.argv[2]), Path(sys.argv[3])))
    else:
        asyncio.run(openai(int(sys.argv[2])))
