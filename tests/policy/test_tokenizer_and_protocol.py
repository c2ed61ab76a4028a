"""The policy's words: the template gives back what was sampled, every text round-trips, calls parse, vLLM's parser reads them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swerl.data.generate import RepairTask, make_tasks
from swerl.policy import protocol

pytestmark = pytest.mark.train
TASKS = make_tasks(21, 60, "train")


@pytest.fixture(scope="module")
def tokenizer():
    from swerl.policy import tokenizer

    return tokenizer.build(make_tasks(11, 600, "train"))


def sampled_trial(task: RepairTask) -> str:
    """All of a gold trial after the prompt, as tokens in the order they were sampled and read."""
    return "".join(
        [
            protocol.call_text(f"cat -n {task.file}") + protocol.END + protocol.observation_text(protocol.numbered(task.code)),
            protocol.call_text(task.edit.command(task.file)) + protocol.END + protocol.observation_text(""),
            protocol.DONE + protocol.END,
        ]
    )


def conversation(task: RepairTask, arguments: Any, content: Any) -> list[dict[str, Any]]:
    """The same trial as the agent's messages."""
    said = protocol.messages(task.issue + "\n")
    for command, output in ((f"cat -n {task.file}", protocol.numbered(task.code)), (task.edit.command(task.file), "")):
        function = {"name": "bash", "arguments": arguments(command)}
        said.append({"role": "assistant", "content": content, "tool_calls": [{"id": "c", "type": "function", "function": function}]})
        said.append({"role": "tool", "tool_call_id": "c", "content": protocol.tool_output(output)})
    return [*said, {"role": "assistant", "content": protocol.DONE}]


@pytest.mark.parametrize("content", [None, "", []])
@pytest.mark.parametrize("arguments", [lambda command: {"command": command}, lambda command: json.dumps({"command": command})])
def test_rendered_messages_equal_the_sampled_text(tokenizer, arguments, content) -> None:
    from swerl.policy.tokenizer import prompt_text

    for task in TASKS[:20]:
        rendered = tokenizer.apply_chat_template(conversation(task, arguments, content), tools=protocol.TOOLS, tokenize=False)
        assert rendered == prompt_text(tokenizer, task.issue) + sampled_trial(task) + "\n"


def test_tokens_do_not_depend_on_where_a_turn_is_cut(tokenizer) -> None:
    from swerl.policy.tokenizer import encode, prompt_text

    for task in TASKS[:20]:
        pieces = [prompt_text(tokenizer, task.issue), *(part + protocol.END for part in sampled_trial(task).split(protocol.END)[:-1])]
        assert [token for piece in pieces for token in encode(tokenizer, piece)] == encode(tokenizer, "".join(pieces))


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=60))
def test_every_text_round_trips(tokenizer, text: str) -> None:
    from swerl.policy.tokenizer import encode

    assert tokenizer.decode(encode(tokenizer, text)) == text


def test_a_call_is_few_tokens(tokenizer) -> None:
    from swerl.policy.tokenizer import encode

    task = TASKS[0]
    assert len(encode(tokenizer, protocol.call_text(f"cat -n {task.file}") + protocol.END)) <= 7
    assert (
        max(len(encode(tokenizer, protocol.call_text(task.edit.command(task.file)) + protocol.END)) for task in TASKS)
        < protocol.MAX_NEW_TOKENS
    )


def test_saved_tokenizer_is_the_same(tokenizer, tmp_path) -> None:
    from transformers import AutoTokenizer

    from swerl.policy.tokenizer import encode, prompt_text

    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = prompt_text(tokenizer, TASKS[0].issue) + sampled_trial(TASKS[0])
    assert loaded.encode(text, add_special_tokens=False) == encode(tokenizer, text)
    assert prompt_text(loaded, TASKS[0].issue) == prompt_text(tokenizer, TASKS[0].issue)


@pytest.mark.slow
def test_vllms_hermes_parser_reads_the_call(tokenizer) -> None:
    from vllm.tool_parsers import ToolParserManager

    command = TASKS[0].edit.command(TASKS[0].file)
    found = ToolParserManager.get_tool_parser("hermes")(tokenizer).extract_tool_calls(protocol.call_text(command), None)
    assert found.tools_called and json.loads(found.tool_calls[0].function.arguments) == {"command": command}


@pytest.mark.parametrize(
    "text",
    [
        "done",
        "<tool_call>\n{not json}\n</tool_call>",
        '<tool_call>\n{"name": "python", "arguments": {"command": "x"}}\n</tool_call>',
        '<tool_call>\n{"name": "bash", "arguments": {"command": 3}}\n</tool_call>',
        '<tool_call>\n{"name": "bash", "arguments": "cat"}\n</tool_call>',
        '<tool_call>\n{"name": "bash", "arguments": {"command": "cat',
    ],
)
def test_what_is_no_call(text: str) -> None:
    assert protocol.parse_call(text) is None


def test_a_call_is_read_back() -> None:
    for task in TASKS:
        command = task.edit.command(task.file)
        assert protocol.parse_call(protocol.call_text(command)) == command


def test_the_words_are_those_of_the_mini_agent() -> None:
    """The agent lives in the other environment; its constants are read from its source."""
    import ast
    from pathlib import Path

    import swerl

    tree = ast.parse((Path(swerl.__file__).parent / "trials" / "agents" / "mini.py").read_text())
    values = {}
    for node in tree.body:
        target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0] if isinstance(node, ast.Assign) else None
        if isinstance(target, ast.Name) and target.id in ("SYSTEM", "TOOLS"):
            values[target.id] = ast.literal_eval(node.value)
    assert values == {"SYSTEM": protocol.SYSTEM, "TOOLS": protocol.TOOLS}
