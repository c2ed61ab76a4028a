"""vLLM's parsers: which one `auto` takes, which ones are refused, and what happens to text that no parser understands."""

from __future__ import annotations

import json

import pytest
from gatewaykit import CHATML, TOOLS, call_text, write_model

from swerl.errors import SwerlError
from swerl.gateway.chat import ChatRequest, Message
from swerl.gateway.parsers import VllmParsers, _named, cut_at_stop
from swerl.gateway.sampling import Sampled
from swerl.gateway.template import ChatTemplate

REQUEST = ChatRequest((Message("user", "u"),), tuple(TOOLS))
FORMATS = {
    "qwen3_coder": """{{- '<tool_call>\\n<function=' + call.name + '>\\n' }}
        {%- for name, value in call.arguments.items() %}
        {{- '<parameter=' + name + '>\\n' + (value if value is string else value | tojson) + '\\n</parameter>\\n' }}{%- endfor %}
        {{- '</function>\\n</tool_call>' }}""",
    "llama3_json": """{{- '{"name": "' + call.name + '", "parameters": ' + (call.arguments | tojson) + '}' }}""",
}


def template_writing(call: str) -> str:
    """CHATML with another way to write a call."""
    head, _, rest = CHATML.partition("            {{- '<tool_call>")
    return head + call + rest[rest.index("{%- endfor %}") :]


def parsers_for(directory, template: str, name: str = "auto", reasoning: str | None = None) -> VllmParsers:
    directory.mkdir(exist_ok=True)
    write_model(directory, template, more_tokens=("<function=", "</function>", "<|python_tag|>"))
    parsers = VllmParsers(directory, ChatTemplate(directory), name, reasoning)
    parsers.load_now()
    return parsers


def read(parsers: VllmParsers, text: str, request: ChatRequest = REQUEST, finish: str = "stop"):
    template = parsers._template
    ids = template.tokenizer.encode(text) + ([template.tokenizer.id_of("<|im_end|>")] if finish == "stop" else [])
    return parsers.read(Sampled(ids, [0.0] * len(ids), [0] * len(ids), finish, 0), request)


def problem(*args) -> str:
    with pytest.raises(SwerlError) as caught:
        parsers_for(*args)
    return caught.value.problems[0].id


def test_auto_takes_the_parser_that_reads_the_models_calls(tmp_path, vllm_reader):
    assert vllm_reader.tool_parser == "hermes"
    for name, call in FORMATS.items():
        parsers = parsers_for(tmp_path / name, template_writing(call))
        assert parsers.tool_parser == name
        assert parsers_for(tmp_path / name, template_writing(call), name).tool_parser == name


def test_a_parser_that_cannot_read_the_models_calls_is_refused(tmp_path, vllm_reader):
    assert problem(tmp_path / "a", CHATML, "qwen3_coder") == "SWERL-G006"
    assert problem(tmp_path / "b", CHATML, "no_such_parser") == "SWERL-G005"
    assert problem(tmp_path / "c", template_writing("{{- '@@' + call.name + '@@' + (call.arguments | tojson) }}")) == "SWERL-G007"
    assert problem(tmp_path / "d", CHATML, "auto", "deepseek_r1") == "SWERL-G009"


@pytest.mark.slow
def test_every_parser_of_vllm_is_found_by_its_name(vllm_reader):
    from vllm.reasoning import ReasoningParserManager
    from vllm.tool_parsers import ToolParserManager

    for manager, get in (
        (ToolParserManager, ToolParserManager.get_tool_parser),
        (ReasoningParserManager, ReasoningParserManager.get_reasoning_parser),
    ):
        names = manager.list_registered()
        assert len(names) > 20 and {"qwen3", "hermes"} & set(names)
        bare = set()
        for name in names:
            try:
                assert _named(get, name, manager, "model.tool_parser") is get(name)
            except SwerlError as error:
                assert error.problems[0].id == "SWERL-G013", "a parser whose own package is not in the lock is named as such"
                bare.add(name)
        assert len(bare) < 5


def test_a_template_without_calls_serves_text_agents(tmp_path, vllm_reader):
    parsers = parsers_for(tmp_path / "p", "{%- for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    assert parsers.tool_parser is None
    assert read(parsers, call_text("ls")).content == call_text("ls")


def test_calls_are_read_and_broken_ones_stay_text(vllm_reader):
    one = read(vllm_reader, "Let me see. " + call_text('grep "x" a.py'))
    assert one.content == "Let me see. " and one.finish == "tool_calls"
    assert json.loads(one.tool_calls[0].arguments) == {"command": 'grep "x" a.py'}
    two = read(vllm_reader, call_text("a") + "\n" + call_text("b"))
    assert [json.loads(c.arguments)["command"] for c in two.tool_calls] == ["a", "b"] and len({c.id for c in two.tool_calls}) == 2
    for broken in (
        "<tool_call>\n",
        call_text("ls").replace("}}", "}"),
        '<tool_call>{"name": "bash"}</tool_call>',
        "<tool_call><tool_call>",
    ):
        answer = read(vllm_reader, broken)
        assert answer.tool_calls == () and answer.content == broken and answer.finish == "stop"
    cut = read(vllm_reader, call_text("ls")[:-20], finish="length")
    assert cut.tool_calls == () and cut.finish == "length"


def test_no_tools_or_tool_choice_none_means_text(vllm_reader):
    for request in (ChatRequest(REQUEST.messages), ChatRequest(REQUEST.messages, REQUEST.tools, tool_choice="none")):
        assert read(vllm_reader, call_text("ls"), request).content == call_text("ls")


def test_a_parser_that_trips_leaves_the_text(vllm_reader, monkeypatch):
    def trip(*_):
        raise RuntimeError("tripped")

    monkeypatch.setattr(vllm_reader._tool_class, "extract_tool_calls", trip)
    assert read(vllm_reader, call_text("ls")).content == call_text("ls")
    assert vllm_reader.failures[-1] == "RuntimeError: tripped"


def test_text_ends_before_the_first_stop_sequence():
    assert cut_at_stop("abcdef", ("f", "cd")) == "ab"
    assert cut_at_stop("abcdef", ()) == cut_at_stop("abcdef", ("x",)) == "abcdef"
