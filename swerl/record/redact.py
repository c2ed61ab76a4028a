"""Taking secrets out of text: the values this run knows to be secret, and whatever has the form of one (see `secret_forms`).

Time is linear in the text, whoever wrote it. A text is best given whole: a key of several lines is known by its first or last one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any
from urllib.parse import quote

import orjson

from swerl.config.schema import keys
from swerl.record.rundir import RunDir, read_json
from swerl.record.secret_forms import FORMS, KEY_BEGINS, KEY_ENDS, KEY_LINES, KEY_TEXT, NAME, Form

HIDDEN = "<secret>"
MIN_CHARS = 6  # of a value that is known to be secret: a shorter one would take words out of every text
_PLACE = re.compile(r"[\w./-]+\.ya?ml:\d+:\d+|default")  # where a key's value came from, not the value


def known_secrets(run: RunDir, env: Mapping[str, str] | None = None) -> list[str]:
    """Texts that must not leave this machine: what the environment holds under a name of a secret, and the tokens of the run's own
    services."""
    environment = os.environ if env is None else env
    found = [environment.get(key.env, "") for key in keys().values() if key.secret]
    found += [value for name, value in environment.items() if NAME.search(name) and len(value) >= 8 and not value.startswith(("/", "~"))]
    services = read_json(run.services) or {}
    for service in services.values():
        if isinstance(service, dict):
            found += [str(value) for name, value in service.items() if "token" in name]
    if run.token.is_file():
        found.append(run.token.read_text().strip())
    return sorted({text for text in found if len(text) >= MIN_CHARS and text not in _public()}, key=len, reverse=True)


def redact(text: str, secrets: Iterable[str]) -> str:
    text = _without_keys(text)
    for secret in secrets:
        for form in dict.fromkeys((secret, orjson.dumps(secret).decode()[1:-1], quote(secret, safe=""))):
            text = text.replace(form, HIDDEN)
    for form in FORMS:
        text = _without(text, form)
    return text


def _without(text: str, form: Form) -> str:
    """The text with each value of this form hidden, and nothing else of it changed."""

    def hide(found: re.Match[str]) -> str:
        group = "value" if found["value"] is not None else "word"
        value = found[group]
        if value == HIDDEN or value in _public() or _PLACE.fullmatch(value) or (form.sure is not None and not form.sure(value)):
            return found[0]
        begin, end = found.span(group)
        return found[0][: begin - found.start()] + HIDDEN + found[0][end - found.start() :]

    return form.pattern.sub(hide, text)


def _without_keys(text: str) -> str:
    """Private keys, from their first line to their last. Of one that was cut, as much is taken out as keys are made of."""
    parts, at = [], 0
    for begins in KEY_BEGINS.finditer(text):
        if begins.start() >= at:
            body = KEY_TEXT.match(text, begins.end()).end()
            ends = KEY_ENDS.search(text, begins.end(), body)
            parts += [text[at : begins.start()], HIDDEN]
            at = body if ends is None else ends.end()
    text = "".join([*parts, text[at:]])
    parts, at = [], 0
    for ends in KEY_ENDS.finditer(text):
        begin = ends.start()
        while begin > at and text[begin - 1] in KEY_LINES:
            begin -= 1
        parts += [text[at:begin], HIDDEN]
        at = ends.end()
    return "".join([*parts, text[at:]])


@cache
def _public() -> frozenset[str]:
    """Values that stand in the schema for everybody to read, such as the dummy key some agents want."""
    return frozenset(key.default for key in keys().values() if isinstance(key.default, str) and key.default)


def redacted(value: Any, secrets: list[str]) -> Any:
    """The same plain data with every text in it redacted. A text under a name that says it is a secret is one, as it is in a line."""
    if isinstance(value, str):
        return redact(value, secrets)
    if isinstance(value, Mapping):
        return {name: _under(name, part, secrets) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [redacted(part, secrets) for part in value]
    return value


def _under(name: Any, part: Any, secrets: list[str]) -> Any:
    if not isinstance(part, str):
        return redacted(part, secrets)
    head = f"{name}="
    whole = redact(head + part, secrets)
    return whole[len(head) :] if whole.startswith(head) else redact(part, secrets)
