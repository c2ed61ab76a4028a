"""Family `model`, continued: the chat template against the tool parser, proved with the gateway's own code in the trainer's environment."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from swerl.preflight.check import Check, Fact, Finding, NotApplicable
from swerl.preflight.context import Context

PROBE = Path(__file__).with_name("policy_probe.py")

# How a call looks in each common syntax, and the parsers of vLLM that read it.
SYNTAXES: tuple[tuple[str, re.Pattern[str], frozenset[str]], ...] = (
    ("function and parameter tags", re.compile(r"<function=probe_tool>"), frozenset({"qwen3_coder", "qwen3_xml", "step3p5"})),
    (
        "JSON between <tool_call> tags",
        re.compile(r'<tool_call>\s*\{.*?"name":\s*"probe_tool"', re.DOTALL),
        frozenset({"hermes", "longcat"}),
    ),
    ("arg_key tags", re.compile(r"<tool_call>\s*probe_tool.*?<arg_key>", re.DOTALL), frozenset({"glm45", "glm47"})),
    ("[TOOL_CALLS]", re.compile(r"\[TOOL_CALLS\]"), frozenset({"mistral"})),
    ("tool_calls_section tokens", re.compile(r"<\|tool_calls_section_begin\|>"), frozenset({"kimi_k2"})),
    ("tool calls tokens of DeepSeek", re.compile(r"<｜tool▁calls▁begin｜>"), frozenset({"deepseek_v3", "deepseek_v31", "deepseek_v32"})),
    ("a JSON object with parameters", re.compile(r'\{"name":\s*"probe_tool",\s*"parameters"'), frozenset({"llama3_json", "llama4_json"})),
    ("commentary channel", re.compile(r"to=functions\.probe_tool"), frozenset({"openai", "gpt_oss"})),
)


def ask_policy(ctx: Context, mode: str, timeout_s: float) -> dict[str, Any]:
    """What the probe says. NotApplicable where the environment or the tokenizer is missing; RuntimeError if the probe dies."""
    ctx.shape()
    python = ctx.cfg.environment.venv_path / "bin" / "python"
    if not python.exists():
        raise NotApplicable("the trainer's environment is missing (SWERL-P801)")
    model = ctx.cfg.model
    asked = {
        "model_path": str(model.model_path),
        "chat_template": str(model.chat_template) if model.chat_template else None,
        "tool_parser": model.tool_parser,
        "reasoning_parser": model.reasoning_parser,
    }
    quiet = {**ctx.env, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    answer = ctx.ask([str(python), "-P", str(PROBE), mode], timeout_s=timeout_s, stdin=orjson.dumps(asked).decode(), env=quiet)
    if not answer.ok:
        tail = [line for line in answer.err.splitlines() if line.strip()]
        raise RuntimeError(tail[-1] if tail else f"the probe ended with {answer.code}")
    return orjson.loads(answer.out.strip().splitlines()[-1])


class TemplateWritesCalls(Check):
    id = "SWERL-P109"
    family = "model"
    title = "tool calls of the chat template"
    asks = "the chat template writes tool calls in the syntax that model.tool_parser reads, and ends a turn with a stop token"
    remedy = "set model.tool_parser: auto, or to the parser named; with the wrong one no call is ever recognised"
    live = True
    budget_s = 9.5
    faults = (1,)

    def run(self, ctx: Context) -> Iterator[Finding]:
        where = ctx.source("model.tool_parser")
        try:
            said = ask_policy(ctx, "render", 9.0)
        except RuntimeError as error:
            yield self.found(f"the template cannot be tried: {error}", str(ctx.cfg.model.model_path))
            return
        if said["error"]:
            yield self.found(said["error"], str(ctx.cfg.model.model_path), remedy="use a chat template that renders tool calls")
            return
        text, wanted = said["text"], ctx.cfg.model.tool_parser
        if "probe_tool" not in text:
            yield self.found(
                "the chat template drops tool calls: only agents that work in plain text can be trained",
                str(ctx.cfg.model.model_path),
                severity="warning",
                remedy="use a chat template that renders tool calls",
            )
            return
        syntax = next(((name, parsers) for name, pattern, parsers in SYNTAXES if pattern.search(text)), None)
        if syntax is None:
            yield Fact("a syntax this check does not know; `--only SWERL-P110` tries the parsers themselves")
        elif wanted != "auto" and wanted not in syntax[1]:
            named = ", ".join(sorted(syntax[1]))
            yield self.found(f"the template writes calls as {syntax[0]} (parser {named}), model.tool_parser is {wanted}", where)
        else:
            yield Fact(f"{syntax[0]}, parser {wanted}")
        if not any(stop and stop in text for stop in said["stops"]):
            yield self.found(
                f"an assistant turn of the template ends with none of the stop tokens ({', '.join(said['stops'])})",
                str(ctx.cfg.model.model_path / "generation_config.json"),
                remedy="add the token that ends a turn to eos_token_id in generation_config.json",
            )


class ParserReadsBack(Check):
    id = "SWERL-P110"
    family = "model"
    title = "tool parser, tried"
    asks = "vLLM's own parser reads back, word for word, a call that the chat template has written"
    remedy = "set model.tool_parser: auto, which tries all parsers of vLLM"
    live = True
    slow = True
    budget_s = 120.0
    faults = (1,)

    def run(self, ctx: Context) -> Iterator[Finding]:
        try:
            said = ask_policy(ctx, "parse", 115.0)
        except RuntimeError as error:
            yield self.found(f"the parser cannot be tried: {error}", ctx.source("model.tool_parser"))
            return
        if said["error"]:
            yield self.found(said["error"], ctx.source("model.tool_parser"))
        else:
            yield Fact(said["parser"])


CHECKS = (TemplateWritesCalls(), ParserReadsBack())
