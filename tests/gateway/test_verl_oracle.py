"""verl's token builder, which renders everything twice a turn, gives the tokens that the gateway gives without the history."""

from __future__ import annotations

import json
import random

import pytest
from gatewaykit import TOOLS

from swerl.gateway.chat import Message, ToolCall
from swerl.gateway.template import ChatTemplate

pytestmark = pytest.mark.slow  # importing verl takes seconds
RESULTS = ("one", "  two\n", "<x> & {y}\n\n", "", "naïve 😀", "\n<tool_response>\nnested")


@pytest.fixture(scope="module")
def oracle(model_dir):
    from transformers import AutoTokenizer
    from verl.utils.tokenizer.continuous_token import QwenContinuousTokenBuilder

    return QwenContinuousTokenBuilder(AutoTokenizer.from_pretrained(model_dir))


@pytest.mark.parametrize("seed", range(8))
def test_prompts_and_continuations_are_verls(model_dir, oracle, seed):
    template, rng = ChatTemplate(model_dir), random.Random(seed)
    (stop,) = [i for i, text in template.stop_texts.items() if text == "<|im_end|>"]
    messages = [Message("system", "Fix the bug."), Message("user", rng.choice(RESULTS))]
    ours = template.prompt(messages, TOOLS)
    theirs = oracle.build_initial_tokens(as_dicts(messages), tools=TOOLS)
    assert ours == theirs
    for turn in range(4):
        calls = tuple(ToolCall(f"c{turn}-{i}", "bash", json.dumps({"command": f"ls {i}"})) for i in range(rng.randrange(3)))
        said = [*template.tokenizer.encode(f"turn {turn}"), stop]
        run = [Message("tool", rng.choice(RESULTS), tool_call_id=c.id) for c in calls] or [Message("user", rng.choice(RESULTS))]
        before = [*messages, Message("assistant", f"turn {turn}", tool_calls=calls)]
        ours = [*ours, *said, *template.continuation(stop, calls, run)]
        sampled = oracle.merge_assistant_tokens(theirs, said).token_ids
        theirs = oracle.merge_context_tokens(as_dicts(before), as_dicts([*before, *run]), sampled, tools=TOOLS).token_ids
        assert ours == theirs
        messages = [*before, *run]


def as_dicts(messages):
    return [m.for_template() for m in messages]
