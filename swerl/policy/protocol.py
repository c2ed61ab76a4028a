"""The words of a demo trial, as the ``mini`` agent and the gateway exchange them.

system "Fix the bug." · user: the task's instruction · then turns of one bash call each, its output as the tool message, until a message
without a call. A gold trial: ``cat -n FILE`` → ``sed -i 'Ns/old/new/' FILE`` → ``done``. The policy writes calls in the hermes form
inside the assistant's text.
"""

from __future__ import annotations

import json
import re
from typing import Any

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
MAX_TURNS = 3
MAX_NEW_TOKENS = 32
DONE = "done"
END = "<|im_end|>"
CALL_OPEN = '<tool_call>\n{"name": "bash", "arguments": {"command": "'
CALL_CLOSE = '"}}\n</tool_call>'
_CALL = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)


def messages(instruction: str) -> list[dict[str, Any]]:
    """The conversation's first two messages."""
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": instruction}]


def call_text(command: str) -> str:
    """An assistant turn that runs ``command`` (which holds nothing that JSON would escape), without the end token."""
    return f"{CALL_OPEN}{command}{CALL_CLOSE}"


def parse_call(text: str) -> str | None:
    """The command of the first well-formed bash call in an assistant's text, else None."""
    found = _CALL.search(text)
    if found is None:
        return None
    try:
        call = json.loads(found.group(1))
    except json.JSONDecodeError:
        return None
    arguments = call.get("arguments")
    command = arguments.get("command") if call.get("name") == "bash" and isinstance(arguments, dict) else None
    return command if isinstance(command, str) else None


def tool_output(output: str) -> str:
    """What the agent puts into the tool message."""
    return output.rstrip() or "(no output)"


def observation_text(output: str) -> str:
    """The template's text between one assistant turn's end token and the next turn's first token."""
    return f"\n<|im_start|>user\n<tool_response>\n{tool_output(output)}\n</tool_response>{END}\n<|im_start|>assistant\n"


def numbered(code: str) -> str:
    """What ``cat -n`` prints for ``code``."""
    return "".join(f"{number:6d}\t{line}\n" for number, line in enumerate(code.splitlines(), 1))
