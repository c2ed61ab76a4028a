"""What a turn costs as its conversation grows: reading the body, finding its place in the session tree, tokenising what is new.

One agent of 24 tools (64 kB) takes `TURNS` turns with tool results of `RESULT_BYTES`; every turn's share is timed in processor time of this
process, in the code the server runs (parse JSON, dialect, placement), without sockets. The median over several agents is reported for an
early and a late turn. verl's own token builder, which renders tools and history anew every turn, stands beside it.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from bodies import ANSWER, exchange, text, tools

from swerl.gateway.chat import Answer, ToolCall
from swerl.gateway.dialects.openai_chat import OpenAIChat
from swerl.gateway.history import Histories
from swerl.gateway.placement import Placer
from swerl.gateway.service import StartCache
from swerl.gateway.template import ChatTemplate
from swerl.gateway.tree import SessionTree

AGENTS, TURNS, RESULT_BYTES = 5, 100, 1200
EARLY, LATE = 2, 100


@dataclass(frozen=True, slots=True)
class Cost:
    """Processor milliseconds: ``read`` parses the body, ``place`` recognises, renders and tokenises."""

    read_ms: float
    place_ms: float
    prompt_tokens: int
    body_bytes: int


def grown(policy: Path) -> tuple[Cost, Cost]:
    """The cost of turn `EARLY` and of turn `LATE`."""
    template = ChatTemplate(policy)
    found = [_conversation(template, seed) for seed in range(AGENTS)]
    return _median([turns[EARLY - 1] for turns in found]), _median([turns[LATE - 1] for turns in found])


def verl_ms(policy: Path) -> tuple[float, float]:
    """verl's builder at the same two turns: milliseconds to tokenise what the turn adds."""
    from transformers import AutoTokenizer
    from verl.utils.tokenizer.continuous_token import ContinuousTokenBuilder

    builder, toolset = ContinuousTokenBuilder(AutoTokenizer.from_pretrained(policy)), tools(24, 64_000)
    messages, took = _begin(0), []
    for turn in range(LATE):
        before = [*messages, _call(turn)]
        after = [*before, {"role": "tool", "tool_call_id": f"call_{turn}", "content": text(turn, RESULT_BYTES)}]
        began = time.process_time()
        builder.tokenize_context_incremental_messages(before, after, tools=toolset)
        took.append(1000 * (time.process_time() - began))
        messages = after
    return statistics.median(took[:5]), statistics.median(took[-5:])


def _conversation(template: ChatTemplate, seed: int) -> list[Cost]:
    placer, tree, dialect = Placer(template, StartCache(template).tokens), SessionTree(), OpenAIChat()
    histories, toolset, messages, costs = Histories(), tools(24, 64_000), _begin(seed), []
    sampled = [*template.tokenizer.encode(ANSWER), max(template.stop_ids)]
    for turn in range(TURNS):
        data = orjson.dumps({"model": "policy", "messages": messages, "tools": toolset})
        began = time.process_time()
        request = dialect.parse(orjson.loads(data), {}, len(data), histories)
        read = time.process_time()
        context = placer.place(tree, request).context
        done = time.process_time()
        costs.append(Cost(1000 * (read - began), 1000 * (done - read), context.end, len(data)))
        call = _call(turn)["tool_calls"][0]
        answer = Answer("", None, (ToolCall(call["id"], "tool_0", call["function"]["arguments"]),), "tool_calls")
        count = len(sampled)
        tree.add_turn(context, sampled, [-0.1] * count, [0] * count, answer)
        messages = [*messages, *exchange(call["id"], text(1000 * seed + turn, RESULT_BYTES))]
    return costs


def _begin(seed: int) -> list[dict[str, Any]]:
    return [{"role": "system", "content": text(seed, 8_000)}, {"role": "user", "content": text(seed + 1, 2_000)}]


def _call(turn: int) -> dict[str, Any]:
    return exchange(f"call_{turn}", "")[0]


def _median(costs: list[Cost]) -> Cost:
    return Cost(
        statistics.median(c.read_ms for c in costs),
        statistics.median(c.place_ms for c in costs),
        costs[0].prompt_tokens,
        costs[0].body_bytes,
    )
