"""Rendering through the model's own chat template: a whole prompt once, and afterwards only what a conversation adds.

`ChatTemplate.prompt` is ``apply_chat_template(messages, tools, add_generation_prompt=True)``, token for token.

`ChatTemplate.continuation` gives the tokens between the end of a sampled turn and the start of the next one, for any template and without
rendering the history: it renders a dummy conversation whose last assistant message is a marker, followed by the new messages, and keeps
what comes after the marker. That text begins with whatever the template writes to close an assistant turn. A turn that ended with its
stop token has sampled that close itself, so the text up to and including the stop token is dropped; a turn that was cut (by length or by a
stop sequence) keeps the close as context. The text is tokenised by itself, never together with sampled tokens.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from swerl.errors import fail
from swerl.gateway.chat import Message, ToolCall
from swerl.gateway.errors import bad_request
from swerl.gateway.tokenizer import Tokenizer, load_tokenizer, special_tokens, stop_token_ids, template_texts

# What a template raises for a conversation it was not written for: its own refusal, or an operation on a field it did not expect.
_REFUSALS = (jinja2.TemplateError, TypeError, RecursionError)


class ChatTemplate:
    """Stateless after construction; safe to use from several threads."""

    def __init__(self, model_path: Path, override: Path | None = None):
        self.tokenizer: Tokenizer = load_tokenizer(model_path)
        self.stop_ids = stop_token_ids(model_path, self.tokenizer)
        self.stop_texts = {i: self.tokenizer.decode([i], skip_special=False) for i in self.stop_ids}
        self._special = special_tokens(model_path)
        environment = _environment()
        try:
            self._templates = {name: environment.from_string(text) for name, text in template_texts(model_path, override).items()}
        except jinja2.TemplateSyntaxError as error:
            raise fail(
                "SWERL-G004", f"the chat template is no valid Jinja: {error}", "mend the template", str(override or model_path)
            ) from error
        self._marker = f"marker{secrets.token_hex(8)}"
        # Some templates refuse a system message after the first, or the same role twice; probing once beats a list of model names.
        self._late_system = self._accepts(Message("user", "a"), Message("assistant", "b"), Message("system", "c"))
        self._user_twice = self._accepts(Message("user", "a"), Message("user", "b"))

    def prompt(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = (), **kwargs: Any) -> list[int]:
        return self.tokenizer.encode(self.prompt_text(messages, tools, **kwargs))

    def prompt_text(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = (), **kwargs: Any) -> str:
        """Raises ApiError 400 when the template refuses the conversation."""
        try:
            return self._render(self._acceptable(messages, starts=True), tools, **kwargs)
        except _REFUSALS as error:
            raise bad_request(f"the model's chat template refuses this conversation: {error}", param="messages") from error

    def continuation(self, last_token: int, calls: Sequence[ToolCall], run: Sequence[Message], **kwargs: Any) -> list[int] | None:
        """Tokens to append after a sampled turn that ended in ``last_token`` and made ``calls``, when ``run`` follows it.

        None when the template cannot render the run this way; the caller then renders the whole conversation anew.
        """
        text = self.continuation_text(last_token, calls, run, **kwargs)
        return None if text is None else self.tokenizer.encode(text) if text else []

    def continuation_text(self, last_token: int, calls: Sequence[ToolCall], run: Sequence[Message], **kwargs: Any) -> str | None:
        run = self._acceptable(run, starts=False)
        plain = [Message("user", "u"), Message("assistant", self._marker), *run]
        try:
            tail = self._render(plain, (), **kwargs).rpartition(self._marker)[2]
            return self._after_stop(tail, last_token)
        except _REFUSALS:
            pass  # a template that wants tool results to follow the calls they answer
        if not calls:
            return None
        mirrored = tuple(ToolCall(c.id, c.name, json.dumps({"a": self._marker})) for c in calls)
        try:
            tail = self._render([Message("user", "u"), Message("assistant", "", tool_calls=mirrored), *run], (), **kwargs)
        except _REFUSALS:
            return None
        tail = tail.rpartition(self._marker)[2]
        own = self.stop_texts.get(last_token)
        stops = [own] if own and own in tail else [stop for stop in self.stop_texts.values() if stop]
        at = min((tail.index(stop) for stop in stops if stop in tail), default=None)
        return None if at is None else self._after_stop(tail[at:], last_token)

    def _after_stop(self, tail: str, last_token: int) -> str:
        if last_token not in self.stop_ids:
            return tail
        head, stop, rest = tail.partition(self.stop_texts[last_token])
        return rest if stop and not head.strip() else tail

    def render_closed(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> str:
        """The conversation without a prompt for a next turn: shows how the template writes an assistant turn."""
        return self._render(messages, tools, add_generation_prompt=False)

    def _render(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], **kwargs: Any) -> str:
        template = self._templates["tool_use"] if tools and "tool_use" in self._templates else self._templates["default"]
        return template.render(
            messages=[m.for_template() for m in messages],
            tools=list(tools) or None,
            documents=None,
            **{"add_generation_prompt": True, **self._special, **kwargs},
        )

    def _accepts(self, *messages: Message) -> bool:
        try:
            self._render(messages, ())
        except _REFUSALS:
            return False
        return True

    def _acceptable(self, messages: Sequence[Message], *, starts: bool) -> Sequence[Message]:
        """The same conversation in roles the template takes. Unchanged for a template that takes it as it is."""
        if self._late_system and self._user_twice:
            return messages
        kept: list[Message] = []
        for message in messages:
            leading = starts and (not kept or (len(kept) == 1 and kept[0].role == "system"))
            if message.role == "system" and not self._late_system and not leading:
                message = Message("user", message.text)
            if kept and kept[-1].role == message.role and (message.role == "system" or (message.role == "user" and not self._user_twice)):
                message = Message(message.role, f"{kept.pop().text}\n\n{message.text}")
            kept.append(message)
        return kept


def _environment() -> ImmutableSandboxedEnvironment:
    """The Jinja dialect chat templates are written for: transformers' settings, filters and globals."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols])
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


class _Generation(jinja2.ext.Extension):
    """``{% generation %}`` marks what the assistant wrote; for rendering it is transparent."""

    tags: ClassVar = {"generation"}

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)
