"""What the gateway's tests share: model directories without weights, and a gateway with a scripted engine behind it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from swerl.gateway.engines.scripted import ScriptedEngine, ScriptReply, ScriptTurn
from swerl.gateway.service import Gateway
from swerl.gateway.settings import GatewaySettings

CALL_OPEN, CALL_CLOSE = '<tool_call>\n{"name": "bash", "arguments": {"command": "', '"}}\n</tool_call>'
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|user|>", "<|observation|>"]
WHOLE = [
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "\n<tool_response>\n",
    "\n</tool_response>",
    CALL_OPEN,
    CALL_CLOSE,
]

TEMPLATES = Path(__file__).parent / "templates"
CHATML, STRICT, OPENERS = ((TEMPLATES / f"{name}.jinja").read_text() for name in ("chatml", "strict", "openers"))

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "bash",
            "description": "Run a shell command.",
            "parameters": {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]},
        },
    }
]


def write_model(
    directory: Path, template: str, eos: tuple[str, ...] = ("<|im_end|>", "<|endoftext|>"), more_tokens: tuple[str, ...] = ()
) -> Path:
    """A policy directory as transformers reads it, without weights. The whole call opener is one token, as in the demo policy."""
    core = Tokenizer(models.BPE())
    pattern = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    core.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    words = "system user assistant tool the quick brown fox cat -n sed -i file.py returns expected error command name arguments Tools type"
    core.train_from_iterator([words] * 50 + [json.dumps(TOOLS)] * 20, trainer)
    core.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    core.add_tokens([AddedToken(t, special=False, normalized=False) for t in (*WHOLE, *more_tokens)])
    core.save(str(directory / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": eos[0],
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [core.token_to_id(t) for t in eos]}))
    (directory / "chat_template.jinja").write_text(template)
    return directory


def call_text(command: str) -> str:
    """What the policy samples to run ``command``."""
    return CALL_OPEN + json.dumps(command)[1:-1] + CALL_CLOSE


@asynccontextmanager
async def running(
    directory: Path,
    model_dir: Path,
    reader: Any,
    script: Callable[[ScriptTurn], str | ScriptReply],
    *,
    registered: bool = True,
    **options: Any,
) -> AsyncIterator[Kit]:
    """A gateway on ``directory`` with a scripted engine, registered unless told otherwise."""
    engine = ScriptedEngine(script, model_dir)
    await engine.start()
    async with gateway_on(directory, model_dir, reader, **options) as kit:
        kit.engine = engine
        if registered:
            await kit.admin("POST", "/engine", engine.registration())
        yield kit
    await engine.stop()


@asynccontextmanager
async def gateway_on(directory: Path, model_dir: Path, reader: Any, **options: Any) -> AsyncIterator[Kit]:
    values = {"journal_dir": directory / "gateway", "events_path": directory / "gateway.jsonl", "model_path": model_dir}
    gateway = Gateway(GatewaySettings(**{**values, **options}), reader)
    await gateway.start()
    client = aiohttp.ClientSession()
    try:
        yield Kit(gateway, client)
    finally:
        await client.close()
        await gateway.stop()


class Kit:
    """Short forms for what tests do with a running gateway."""

    def __init__(self, gateway: Gateway, client: aiohttp.ClientSession):
        self.gateway, self.client = gateway, client
        self.engine: ScriptedEngine = None  # type: ignore[assignment]

    async def admin(self, method: str, path: str, body: Any = None, status: int = 200) -> Any:
        headers = {"Authorization": f"Bearer {self.gateway.admin_token}"}
        async with self.client.request(method, self.gateway.admin_url + path, json=body, headers=headers) as response:
            assert response.status == status, await response.text()
            return await response.json()

    async def open(self, **options: Any) -> tuple[str, str]:
        body = {"trial": {"split": "train", "task": "t", "sample": 0, "attempt": 0, "version": "a:0"}, **options}
        opened = await self.admin("POST", "/sessions", body)
        return opened["session"], opened["key"]

    async def chat(self, key: str, messages: list[dict], *, status: int = 200, headers: dict[str, str] | None = None, **body: Any) -> Any:
        url = f"{self.gateway.public_url}/t/{key}/v1/chat/completions"
        payload = {"model": "any-name", "messages": messages, "tools": TOOLS, **body}
        async with self.client.post(url, json=payload, headers=headers) as response:
            assert response.status == status, (response.status, await response.text())
            if payload.get("stream"):
                return [json.loads(line[6:]) for line in (await response.text()).splitlines() if line.startswith("data: {")]
            return await response.json()

    async def recording(self, session: str, paths: str = "all") -> dict[str, Any]:
        return await self.admin("GET", f"/sessions/{session}/recording?paths={paths}")
