"""Sampled tokens to an answer: text, reasoning and tool calls, through vLLM's own parsers.

Importing them takes seconds (they bring torch), so they load in a thread while the gateway already serves; a turn that is asked for earlier
waits, as hold time. ``auto`` tries parsers until one reads back a call that the model's own chat template has rendered; a parser named in
the configuration has to pass the same test. The parsers read text, so they do not depend on how the model's tokens cut it.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from hashlib import blake2b
from pathlib import Path
from threading import Thread
from typing import Any, Protocol

import jinja2
import orjson

from swerl.errors import fail
from swerl.gateway.chat import Answer, ChatRequest, Message, ToolCall
from swerl.gateway.sampling import Sampled
from swerl.gateway.template import ChatTemplate

# The order in which `auto` tries them: the common formats first; every other parser of vLLM's follows.
_PREFERRED = ("hermes", "qwen3_coder", "llama3_json", "mistral", "deepseek_v3", "glm45", "kimi_k2", "minimax_m2", "openai")
_PROBE_TOOL = {
    "type": "function",
    "function": {
        "name": "probe_tool",
        "description": "Probe.",
        "parameters": {
            "type": "object",
            "properties": {"command": {"type": "string"}, "count": {"type": "integer"}},
            "required": ["command", "count"],
        },
    },
}
_PROBE_ARGUMENTS = {"command": 'ls -l "a b"\necho <x>', "count": 7}


class AnswerReader(Protocol):
    """Turns sampled tokens into an answer, once it is `ready`. ``tool_parser`` names what it reads calls with."""

    @property
    def tool_parser(self) -> str | None: ...

    async def ready(self) -> None: ...

    def read(self, sampled: Sampled, request: ChatRequest) -> Answer: ...

    def certain(self, token_ids: Sequence[int], request: ChatRequest) -> str:
        """The beginning of the answer's text that these first tokens of a turn settle, whatever follows."""
        ...


class VllmParsers:
    def __init__(self, model_path: Path, template: ChatTemplate, tool_parser: str, reasoning_parser: str | None):
        self._model_path, self._template = model_path, template
        self._tool_parser_name, self._reasoning_parser_name = tool_parser, reasoning_parser
        self._loading: Future[None] | None = None
        self._tool_class: Any = None
        self._reasoning_class: Any = None
        self._tokenizer: Any = None
        self._protocol: Any = None
        self._requests: dict[bytes, Any] = {}
        self.loaded = False
        self._opening = ""  # how the text of a call begins, when text before it stays as it is
        self.failures: deque[str] = deque(maxlen=16)  # what parsers tripped over lately

    def load(self) -> Future[None]:
        """Start loading, once, in a thread that does not keep the process alive. The future raises what `load_now` raises."""
        if self._loading is None:
            self._loading = Future()
            Thread(target=self._load_into, args=(self._loading,), name="parsers", daemon=True).start()
        return self._loading

    def _load_into(self, future: Future[None]) -> None:
        try:
            self.load_now()
        except BaseException as error:  # whatever it is, it belongs to whoever waits for the parsers
            future.set_exception(error)
        else:
            future.set_result(None)

    @property
    def tool_parser(self) -> str | None:
        """Name of the parser in use, once loaded."""
        return None if self._tool_class is None else self._tool_parser_name

    async def ready(self) -> None:
        if not self.loaded:
            await asyncio.shield(asyncio.wrap_future(self.load()))

    def read(self, sampled: Sampled, request: ChatRequest) -> Answer:
        ids = sampled.token_ids[:-1] if sampled.token_ids[-1] in self._template.stop_ids else sampled.token_ids
        wants_calls = bool(request.tools) and request.tool_choice != "none" and self._tool_class is not None
        vllm_request = self._vllm_request(request.tools, request.preamble) if wants_calls else self._vllm_request(())
        text = self._template.tokenizer.decode(ids, skip_special=vllm_request.skip_special_tokens)
        text = cut_at_stop(text, request.stop)
        try:
            reasoning, content, calls = self._parsed(text, vllm_request, wants_calls)
        except Exception as error:  # vLLM's parsers meet whatever a policy in training writes; what they trip over is plain text
            self.failures.append(f"{type(error).__name__}: {error}")
            reasoning, content, calls = None, text, ()
        return Answer(content, reasoning, calls, "tool_calls" if calls and sampled.finish == "stop" else sampled.finish)

    def certain(self, token_ids: Sequence[int], request: ChatRequest) -> str:
        if not self.loaded or self._reasoning_class is not None:
            return ""  # what is reasoning and what is not shows at its end
        wants_calls = bool(request.tools) and request.tool_choice != "none" and self._tool_class is not None
        if wants_calls and not self._opening:
            return ""
        vllm_request = self._vllm_request(request.tools, request.preamble) if wants_calls else self._vllm_request(())
        text = self._template.tokenizer.decode(token_ids, skip_special=vllm_request.skip_special_tokens)
        if any(stop in text for stop in self._template.stop_texts.values() if stop):
            return ""
        for sequence in (*request.stop, *([self._opening] if wants_calls else ()), "\ufffd"):
            text = text[: _possible(text, sequence)]
        return text.rstrip() if wants_calls else text

    def _parsed(self, text: str, vllm_request: Any, wants_calls: bool) -> tuple[str | None, str, tuple[ToolCall, ...]]:
        reasoning: str | None = None
        content: str | None = text
        if self._reasoning_class is not None:
            reasoning, content = self._reasoning_class(self._tokenizer).extract_reasoning(text, vllm_request)
        if wants_calls and content:
            found = self._tool_class(self._tokenizer, vllm_request.tools).extract_tool_calls(content, vllm_request)
            if found.tools_called:
                calls = tuple(ToolCall(c.id, c.function.name, c.function.arguments) for c in found.tool_calls)
                text_beside = found.content or ""
                return reasoning, text_beside if text_beside.strip() else "", calls
        return reasoning, content or "", ()

    def load_now(self) -> None:
        """Load and check, blocking. Raises SwerlError; see `load`."""
        importlib.import_module("vllm.logger")
        # a policy in training writes broken calls all the time; vLLM's parsers log a traceback for each
        logging.getLogger("vllm").setLevel(logging.CRITICAL)
        self._protocol = importlib.import_module("vllm.entrypoints.openai.chat_completion.protocol")
        tools = importlib.import_module("vllm.tool_parsers").ToolParserManager
        reasoning = importlib.import_module("vllm.reasoning").ReasoningParserManager
        hf = importlib.import_module("vllm.tokenizers.hf")
        auto = importlib.import_module("transformers").AutoTokenizer
        self._tokenizer = hf.get_cached_tokenizer(auto.from_pretrained(str(self._model_path)))
        if self._reasoning_parser_name is not None:
            self._reasoning_class = _named(reasoning.get_reasoning_parser, self._reasoning_parser_name, reasoning, "model.reasoning_parser")
            try:
                self._reasoning_class(self._tokenizer)
            except Exception as error:  # every parser has its own way to say that the tokenizer lacks its tokens
                raise fail(
                    "SWERL-G009",
                    f"the reasoning parser {self._reasoning_parser_name!r} does not fit the model: {error}",
                    "set model.reasoning_parser to the one the model was trained for, or to null",
                    "model.reasoning_parser",
                ) from error
        if self._tool_parser_name == "auto":
            self._choose(tools)
        else:
            self._tool_class = _named(tools.get_tool_parser, self._tool_parser_name, tools, "model.tool_parser")
            if not self._reads_back(self._tool_class):
                raise fail(
                    "SWERL-G006",
                    f"the tool parser {self._tool_parser_name!r} cannot read the calls that the model's chat template writes",
                    "set model.tool_parser to auto, or to the parser the model was trained for",
                    "model.tool_parser",
                )
        self._opening = self._call_opening()
        self.loaded = True

    def _choose(self, manager: Any) -> None:
        if self._rendered_call() is None:
            self._tool_parser_name = ""
            return  # a template without tool calls: agents that use tools are refused, text agents are served
        for name in (*_PREFERRED, *(n for n in sorted(manager.list_registered()) if n not in _PREFERRED)):
            try:
                candidate = manager.get_tool_parser(name)
            except (KeyError, ImportError):
                continue  # this release does not have it, or not its dependency
            if self._reads_back(candidate):
                self._tool_parser_name, self._tool_class = name, candidate
                return
        raise fail(
            "SWERL-G007",
            "no tool parser reads the calls that the model's chat template writes",
            "name one in model.tool_parser, or mend the template",
            str(self._model_path),
        )

    def _rendered_call(self) -> str | None:
        """What the model would have to sample to make the probe call; None when its template has no tool calls."""
        call = ToolCall("probe00id", "probe_tool", json.dumps(_PROBE_ARGUMENTS))
        start = [Message("user", "u")]
        try:
            prompt = self._template.prompt_text(start, [_PROBE_TOOL])
            whole = self._template.render_closed([*start, Message("assistant", "", tool_calls=(call,))], [_PROBE_TOOL])
        except (jinja2.TemplateError, TypeError, ValueError):
            return None
        common = next((i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), min(len(prompt), len(whole)))
        text = whole[common:] if common < len(prompt) else whole[len(prompt) :]
        stops = [text.index(stop) for stop in self._template.stop_texts.values() if stop and stop in text]
        text = text[: min(stops, default=len(text))]
        return text if "probe_tool" in text else None

    def _reads_back(self, parser: Any) -> bool:
        text = self._rendered_call()
        if text is None:
            return False
        request = self._vllm_request((_PROBE_TOOL,))
        try:
            found = parser(self._tokenizer, request.tools).extract_tool_calls(text, request)
            calls = [(c.function.name, json.loads(c.function.arguments)) for c in found.tool_calls]
        except Exception:  # a parser for another model may fail in any way; that is the answer to the question
            return False
        return found.tools_called and calls == [("probe_tool", _PROBE_ARGUMENTS)] and not (found.content or "").strip()

    def _call_opening(self) -> str:
        """The first word of a rendered call, if the parser leaves text in front of a call alone; else empty."""
        rendered = self._rendered_call() if self._tool_class is not None else None
        if rendered is None:
            return ""
        opening, request = rendered.split(maxsplit=1)[0].partition("probe_tool")[0], self._vllm_request((_PROBE_TOOL,))
        try:
            found = self._tool_class(self._tokenizer, request.tools).extract_tool_calls(f"look first {rendered.lstrip()}", request)
        except Exception:  # as in `_reads_back`
            return ""
        return opening if found.tools_called and (found.content or "").strip() == "look first" else ""

    def _vllm_request(self, tools: Sequence[Mapping[str, Any]], key: bytes = b"") -> Any:
        """vLLM's request object, as its parsers want it; made once for a set of tools, which ``key`` identifies when it is given."""
        key = key or blake2b(orjson.dumps(tools), digest_size=16).digest()
        if (known := self._requests.get(key)) is None:
            known = self._protocol.ChatCompletionRequest(
                messages=[{"role": "user", "content": ""}], model="policy", tools=list(tools) or None, tool_choice="auto" if tools else None
            )
            if self._tool_class is not None:
                known = self._tool_class(self._tokenizer, known.tools).adjust_request(known)
            if len(self._requests) > 256:
                self._requests.clear()
            self._requests[key] = known
        return known


def _named(get: Any, name: str, manager: Any, key: str) -> Any:
    try:
        return get(name)
    except KeyError as error:
        known = ", ".join(sorted(manager.list_registered()))
        raise fail("SWERL-G005", f"vLLM has no parser {name!r}", f"choose one of: {known}", key) from error
    except ImportError as error:
        raise fail("SWERL-G013", f"vLLM's parser {name!r} needs what is not installed: {error}", "choose another parser", key) from error


def _possible(text: str, sequence: str) -> int:
    """Where ``sequence`` begins in ``text``, or may begin at its end; the length of the text when nowhere."""
    if (at := text.find(sequence)) >= 0:
        return at
    longest = min(len(sequence) - 1, len(text))
    return next((len(text) - n for n in range(longest, 0, -1) if sequence.startswith(text[-n:])), len(text))


def cut_at_stop(text: str, stops: Sequence[str]) -> str:
    """The text before the first stop sequence in it. The sampled tokens keep it; only the answer does not."""
    at = min((i for i in (text.find(stop) for stop in stops) if i >= 0), default=len(text))
    return text[:at]
