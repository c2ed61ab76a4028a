"""What is appended turn by turn reads like the whole conversation rendered at once, for templates of three kinds."""

from __future__ import annotations

import json

import pytest
from gatewaykit import CHATML, OPENERS, TOOLS, write_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swerl.errors import SwerlError
from swerl.gateway.chat import Message, ToolCall
from swerl.gateway.errors import ApiError
from swerl.gateway.template import ChatTemplate

SYSTEM, USER = Message("system", "Fix the bug."), Message("user", "it returns 2")


def stop_for(template: ChatTemplate, following: Message) -> int:
    """The token the policy would sample to end its turn."""
    wanted = {"tool": "<|observation|>", "user": "<|user|>"}[following.role]
    found = {text: i for i, text in template.stop_texts.items()}
    return found.get(wanted, found.get("<|im_end|>"))


def appended(template: ChatTemplate, history: list[Message]) -> str:
    """The conversation as an agent's turns build it up: each assistant message is sampled, everything else continued."""
    first = next(i for i, m in enumerate(history) if m.role == "assistant")
    text, i = template.prompt_text(history[:first], TOOLS), first
    while i < len(history):
        run = []
        for message in history[i + 1 :]:
            if message.role == "assistant":
                break
            run.append(message)
        closed = template.render_closed([USER, history[i]]).removeprefix(template.prompt_text([USER]))
        stop = stop_for(template, run[0])
        text += closed.removesuffix("\n").removesuffix(template.stop_texts[stop]) + template.stop_texts[stop]
        continued = template.continuation_text(stop, history[i].tool_calls, run)
        assert continued is not None
        text += continued
        i += 1 + len(run)
    return text


def calls(*commands: str) -> tuple[ToolCall, ...]:
    return tuple(ToolCall(f"call_{c}", "bash", json.dumps({"command": c})) for c in commands)


CONVERSATIONS = {
    "tools": [SYSTEM, USER, Message("assistant", "", tool_calls=calls("a")), Message("tool", "one", tool_call_id="call_a")],
    "text": [SYSTEM, USER, Message("assistant", "hello"), Message("user", "go on")],
    "no system": [USER, Message("assistant", "x", tool_calls=calls("a")), Message("tool", "  one\n", tool_call_id="call_a")],
    "long": [
        SYSTEM,
        USER,
        Message("assistant", "", tool_calls=calls("a")),
        Message("tool", "one", tool_call_id="call_a"),
        Message("assistant", "done?"),
        Message("user", "no"),
        Message("assistant", "", tool_calls=calls("b")),
        Message("tool", "two", tool_call_id="call_b"),
    ],
}


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_appending_equals_rendering_the_whole(template, name):
    history = CONVERSATIONS[name]
    assert appended(template, history) == template.prompt_text(history, TOOLS)


def test_parallel_calls(template):
    history = [
        USER,
        Message("assistant", "", tool_calls=calls("a", "b")),
        Message("tool", "one", tool_call_id="call_a"),
        Message("tool", "two", tool_call_id="call_b"),
    ]
    assert appended(template, history) == template.prompt_text(history, TOOLS)


def test_a_cut_turn_is_closed_by_the_template(model_dir):
    template = ChatTemplate(model_dir)
    letter = template.tokenizer.encode("a")[-1]
    assert template.continuation_text(letter, (), [Message("user", "u")]).startswith("<|im_end|>\n<|im_start|>user\nu")
    other_stop = template.tokenizer.id_of("<|endoftext|>")
    assert template.continuation_text(other_stop, (), [Message("user", "u")]).startswith("<|im_end|>\n")


def test_nothing_after_our_turn_still_asks_for_the_next(model_dir):
    template = ChatTemplate(model_dir)
    assert template.continuation_text(template.tokenizer.id_of("<|im_end|>"), (), []) == "\n<|im_start|>assistant\n"


def test_a_strict_template_gets_roles_it_takes(tmp_path):
    from gatewaykit import STRICT

    template = ChatTemplate(write_model(tmp_path, STRICT))
    text = template.prompt_text([SYSTEM, Message("system", "More."), USER, Message("system", "Note."), Message("user", "go")])
    assert text.startswith("<|im_start|>system\nFix the bug.\n\nMore.<|im_end|>\n<|im_start|>user\nit returns 2\n\nNote.\n\ngo<|im_end|>")
    with pytest.raises(ApiError):
        template.prompt([USER, Message("tool", "x", tool_call_id="y")])


def test_a_strict_template_cannot_continue_without_a_call(tmp_path):
    from gatewaykit import STRICT

    template = ChatTemplate(write_model(tmp_path, STRICT))
    stop = template.tokenizer.id_of("<|im_end|>")
    assert template.continuation(stop, (), [Message("tool", "x", tool_call_id="y")]) is None
    assert template.continuation(stop, calls("a"), [Message("tool", "x", tool_call_id="y")]) is not None


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=60), min_size=1, max_size=4))
def test_first_prompts_equal_transformers(model_dir, texts):
    ours = ChatTemplate(model_dir)
    messages = [Message("user" if i % 2 == 0 else "assistant", t) for i, t in enumerate(texts)]
    theirs = _transformers(model_dir).apply_chat_template(
        [m.for_template() for m in messages], tools=TOOLS, add_generation_prompt=True, return_dict=False
    )
    assert ours.prompt(messages, TOOLS) == theirs


_loaded = {}


def _transformers(model_dir):
    from transformers import AutoTokenizer

    if model_dir not in _loaded:
        _loaded[model_dir] = AutoTokenizer.from_pretrained(model_dir)
    return _loaded[model_dir]


def test_models_that_cannot_be_served_are_named(tmp_path):
    def problem(directory) -> str:
        with pytest.raises(SwerlError) as caught:
            ChatTemplate(directory)
        return caught.value.problems[0].id

    assert problem(tmp_path) == "SWERL-G001"
    write_model(tmp_path, CHATML)
    (tmp_path / "generation_config.json").unlink()
    (tmp_path / "tokenizer_config.json").write_text("{}")
    assert problem(tmp_path) == "SWERL-G002"
    write_model(tmp_path, "{% if %}")
    assert problem(tmp_path) == "SWERL-G004"
    (tmp_path / "chat_template.jinja").unlink()
    assert problem(tmp_path) == "SWERL-G003"


def test_templates_of_every_place_are_found(tmp_path):
    write_model(tmp_path, OPENERS)
    here = ChatTemplate(tmp_path).prompt_text([USER])
    (tmp_path / "chat_template.jinja").unlink()
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    for value in (OPENERS, [{"name": "default", "template": OPENERS}, {"name": "tool_use", "template": "with tools"}]):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": value}))
        assert ChatTemplate(tmp_path).prompt_text([USER]) == here
    assert ChatTemplate(tmp_path).prompt_text([USER], TOOLS) == "with tools"
    (tmp_path / "mine.jinja").write_text("mine")
    assert ChatTemplate(tmp_path, tmp_path / "mine.jinja").prompt_text([USER]) == "mine"
