"""Taking secrets out of text: the values this run knows to be secret, and whatever stands behind a name that says it is one."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from swerl.config.schema import keys
from swerl.record.rundir import RunDir, read_json

HIDDEN = "<secret>"
_NAMED = re.compile(
    r"""(?ix)
    (?P<name>["']?[\w.-]*(?:api[_-]?key|apikey|secret|password|passwd|access[_-]?token|auth[_-]?token|admin[_-]?token|private[_-]?key)["']?
      \s*[:=]\s*["']?)
    (?P<value>[^\s"',;}]{6,})
    """
)
_BEARER = re.compile(r"(?i)\b(?P<name>bearer\s+)(?P<value>[\w.~+/=-]{8,})")
# A session's key in a gateway address: behind a host, or where a path begins. A directory that is called "t" is not one.
_SESSION = re.compile(r"""(?P<name>(?:://[^\s/"']+|(?<![\w./-]))/t/)(?P<value>[\w-]{16,})""")
_PLACE = re.compile(r"[\w./-]+\.ya?ml:\d+:\d+|default")  # where a key's value came from, not the value
_URL_PASSWORD = re.compile(r"(?P<name>\b\w+://[^\s/:@]*:)(?P<value>[^\s/@]{3,})(?=@)")


def known_secrets(run: RunDir, env: Mapping[str, str] | None = None) -> list[str]:
    """Texts that must not leave this machine: keys from the environment, and the tokens of the run's own services."""
    environment = os.environ if env is None else env
    found = [environment.get(key.env, "") for key in keys().values() if key.secret]
    services = read_json(run.services) or {}
    for service in services.values():
        if isinstance(service, dict):
            found += [str(value) for name, value in service.items() if "token" in name]
    if run.token.is_file():
        found.append(run.token.read_text().strip())
    return sorted({text for text in found if len(text) >= 6}, key=len, reverse=True)


def redact(text: str, secrets: list[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    for pattern in (_NAMED, _BEARER, _SESSION, _URL_PASSWORD):
        text = pattern.sub(lambda m: m[0] if m["value"] in _public() or _PLACE.fullmatch(m["value"]) else m["name"] + HIDDEN, text)
    return text


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
