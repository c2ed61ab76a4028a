"""What is sent and what answers: a policy directory with a realistic tokenizer, request bodies of given sizes, and the scripts upstream."""

from __future__ import annotations

import functools
import json
import os
import random
import sysconfig
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from swerl.gateway.engines.scripted import ScriptReply, ScriptTurn
from swerl.gateway.tokenizer import load_tokenizer, stop_token_ids

ANSWER = '<tool_call>\n{"name": "tool_0", "arguments": {"command": "sed -n 1,40p src/module.py"}}\n</tool_call>'
TEMPLATE = Path(__file__).with_name("policy.jinja")


@functools.cache
def corpus() -> str:
    """Source code of the standard library: what tool results of a coding agent look like."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    return "\n".join(f.read_text(errors="replace") for f in files if f.stat().st_size < 200_000)[:4_000_000]


def write_policy(directory: Path) -> Path:
    """A policy directory without weights; its tokenizer has about four characters to a token."""
    if (directory / "tokenizer.json").exists():
        return directory
    directory.mkdir(parents=True, exist_ok=True)
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=16_000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    core.train_from_iterator([corpus()[i : i + 10_000] for i in range(0, len(corpus()), 10_000)], trainer)
    core.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")])
    core.add_tokens([AddedToken(t, special=False, normalized=False) for t in ("<tool_call>", "</tool_call>")])
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "clean_up_tokenization_spaces": False}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [core.token_to_id("<|im_end|>")]}))
    (directory / "chat_template.jinja").write_text(TEMPLATE.read_text())
    core.save(str(directory / "tokenizer.json"))
    return directory


def tools(count: int, total_bytes: int) -> list[dict[str, Any]]:
    made = []
    for i in range(count):
        parameters = {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]}
        function = {"name": f"tool_{i}", "description": "", "parameters": parameters}
        made.append({"type": "function", "function": function})
        function["description"] = text(i, max(0, total_bytes // count - len(json.dumps(made[-1]))))
    return made


def text(seed: int, size: int) -> str:
    start = random.Random(seed).randrange(len(corpus()) - size - 1)
    return corpus()[start : start + size].encode("ascii", "replace").decode()


def small(seed: int) -> dict[str, Any]:
    """A first request of about 1 kB with a single tool; different for every seed."""
    messages = [{"role": "system", "content": "You fix bugs."}, {"role": "user", "content": f"Task {seed}. {text(seed, 600)}"}]
    return {"model": "policy", "messages": messages, "tools": tools(1, 200)}


def large(seed: int, turns: int = 40) -> dict[str, Any]:
    """A request of about 300 kB: 24 tools of 64 kB together, and a history of ``turns`` calls with their results."""
    share = 220_000 // turns
    messages = [{"role": "system", "content": text(seed, 8_000)}, {"role": "user", "content": f"Task {seed}. {text(seed + 1, 2_000)}"}]
    for i in range(turns):
        messages += exchange(f"foreign_{i}", text(seed + 2 + i, share))
    return {"model": "policy", "messages": messages, "tools": tools(24, 64_000)}


def exchange(call_id: str, result: str) -> list[dict[str, Any]]:
    arguments = json.dumps({"command": "sed -n 1,40p src/module.py"})
    call = {"id": call_id, "type": "function", "function": {"name": "tool_0", "arguments": arguments}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    return [message, {"role": "tool", "tool_call_id": call_id, "content": result}]


_answer_ids: list[int] = []


def script(turn: ScriptTurn) -> ScriptReply:
    """The token engine's answer: one tool call, at once."""
    if not _answer_ids:
        policy = Path(os.environ["BENCH_POLICY"])
        tokenizer = load_tokenizer(policy)
        _answer_ids.extend([*tokenizer.encode(ANSWER), *stop_token_ids(policy, tokenizer)])
    return ScriptReply(token_ids=_answer_ids)
