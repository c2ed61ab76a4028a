"""Runs in the trainer's environment, as a program: what the policy's chat template writes for a tool call, and who can read it back.

Argument: ``render`` (templates and tokenizer only) or ``parse`` (vLLM's parsers as well; takes seconds). Input (stdin, JSON): model_path,
chat_template, tool_parser, reasoning_parser. Output (last line of stdout, JSON): text (what follows the prompt when the assistant calls
the tool), stops (texts of the stop tokens), parser (name of the parser that read it back, with ``parse``), error (empty if all is well).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from swerl.errors import SwerlError
from swerl.gateway.chat import Message, ToolCall
from swerl.gateway.errors import ApiError
from swerl.gateway.template import ChatTemplate

TOOL = {
    "type": "function",
    "function": {
        "name": "probe_tool",
        "description": "Probe.",
        "parameters": {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]},
    },
}


def render(asked: dict[str, Any], template: ChatTemplate) -> dict[str, Any]:
    call = ToolCall("probe00id", "probe_tool", json.dumps({"command": "ls -l"}))
    start = [Message("user", "u")]
    prompt = template.prompt_text(start, [TOOL])
    try:
        whole = template.prompt_text(
            [*start, Message("assistant", "", tool_calls=(call,)), Message("tool", "done", tool_call_id=call.id)], [TOOL]
        )
    except ApiError as error:
        return {"text": "", "stops": [], "parser": "", "error": f"the template refuses a conversation with a tool call: {error}"}
    common = next((i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), min(len(prompt), len(whole)))
    return {"text": whole[common:], "stops": sorted(template.stop_texts.values()), "parser": "", "error": ""}


def parse(asked: dict[str, Any], template: ChatTemplate) -> dict[str, Any]:
    from swerl.gateway.parsers import VllmParsers

    parsers = VllmParsers(Path(asked["model_path"]), template, asked["tool_parser"], asked["reasoning_parser"])
    parsers.load_now()
    return {"text": "", "stops": [], "parser": parsers.tool_parser or "none", "error": ""}


if __name__ == "__main__":
    wanted = json.load(sys.stdin)
    try:
        override = Path(wanted["chat_template"]) if wanted["chat_template"] else None
        said = {"render": render, "parse": parse}[sys.argv[1]](wanted, ChatTemplate(Path(wanted["model_path"]), override))
    except SwerlError as problem:
        said = {"text": "", "stops": [], "parser": "", "error": problem.problems[0].message}
    print(json.dumps(said))
