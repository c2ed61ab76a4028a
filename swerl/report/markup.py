"""Elements of HTML and SVG as text that cannot be misread: whatever is not made here is escaped.

``el(name, *children, **attributes)``: children are text, markup, or lists of them; None is nothing. An attribute's trailing underscore
falls away and others become hyphens, so ``class_`` and ``aria_label`` can be written; None and False leave it out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape
from typing import Any

_VOID = frozenset({"meta", "br", "hr", "col", "link"})
# What no XML or HTML text may hold; a sandbox may print anything.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


class Markup(str):
    """Text that is markup already. Made only by `el` and from words of this room."""

    __slots__ = ()


def el(name: str, /, *children: Any, **attributes: Any) -> Markup:
    shown = "".join(f' {_attribute(key)}="{text(value)}"' for key, value in attributes.items() if value is not None and value is not False)
    if name in _VOID:
        return Markup(f"<{name}{shown}>")
    return Markup(f"<{name}{shown}>{''.join(_child(child) for child in children)}</{name}>")


def text(value: Any) -> str:
    """Escaped for text and for quoted attributes; control characters become visible."""
    return escape(_FORBIDDEN.sub("�", str(value)), quote=True)


def _child(child: Any) -> str:
    if child is None:
        return ""
    if isinstance(child, Markup):
        return child
    if isinstance(child, str):
        return text(child)
    if isinstance(child, Iterable):
        return "".join(_child(one) for one in child)
    return text(child)


def _attribute(key: str) -> str:
    return key if key in ("viewBox",) else key.rstrip("_").replace("_", "-")
