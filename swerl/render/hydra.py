"""Values in Hydra's override grammar: text in, the same value out of Hydra's parser (tests/render/test_hydra.py)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from swerl.errors import fail

# Text that needs no quotes: it starts like a word or a path and can be read neither as a number nor as one of Hydra's own words.
_PLAIN = re.compile(r"^[A-Za-z_/][A-Za-z0-9_./-]*$")
_WORDS = {"true", "false", "null", "nan", "inf"}


def argument(name: str, value: Any) -> str:
    """``name=value`` as one argument; ``name`` keeps its ``+``, ``++`` or ``~``."""
    return f"{name}={literal(value)}"


def literal(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} has no place in a configuration")
        return repr(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_key(k)}:{literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(literal(v) for v in value) + "]"
    text = str(value)
    return text if _PLAIN.match(text) and text.lower() not in _WORDS else _quoted(text)


def _key(key: str) -> str:
    """Hydra has no quotes for the keys of a mapping: what it would read otherwise cannot be written."""
    if not re.match(r"^[A-Za-z_][A-Za-z0-9_.-]*$", key) or key.lower() in _WORDS:
        raise fail("SWERL-C018", f"the key {key!r} cannot be passed to verl", "use letters, digits, `_`, `.` and `-`", "verl_overrides")
    return key


def _quoted(text: str) -> str:
    """In single quotes. Hydra reads a backslash as such unless a quote follows the run of backslashes; there they are doubled."""
    escaped = re.sub(r"(\\*)'", lambda m: m.group(1) * 2 + r"\'", text)
    trailing = len(escaped) - len(escaped.rstrip("\\"))
    return f"'{escaped}{'\\' * trailing}'"
