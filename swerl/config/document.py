"""YAML as people write it, with the place of every key.

`read` turns one file into a `Document`: plain values (dict, list, str, int, float, bool, None) and, for each key's path, where it
stands. Scalars follow YAML 1.2's core schema: ``1e-6`` is a number, ``yes`` and ``on`` are words, dates are text. A number
with a leading zero is text: YAML 1.1 reads ``010`` as 8 and ``08`` as a word, 1.2 reads 10 and 8. A key that appears twice is an error,
because YAML would silently keep the last one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from yaml.cyaml import CParser
from yaml.resolver import BaseResolver

from swerl.errors import Problem, SwerlError, fail

KeyPath = tuple[str | int, ...]

_SCALARS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("null", re.compile(r"^(?:~|null|Null|NULL|)$")),
    ("bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")),
    ("int", re.compile(r"^[-+]?(?:0|[1-9][0-9]*)$")),
    ("float", re.compile(r"^[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$")),
)


@dataclass(frozen=True, slots=True)
class Place:
    """A position in a file, both counted from one as editors do."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Document:
    values: Mapping[str, Any]
    places: Mapping[KeyPath, Place] = field(default_factory=dict)


class _Loader(CParser, BaseResolver):
    """libyaml's parser, which composes nodes and resolves no tags: `scalar` decides types from the text."""

    def __init__(self, stream: str):
        CParser.__init__(self, stream)
        BaseResolver.__init__(self)


def read(path: Path, shown_as: str | None = None) -> Document:
    """The document in ``path``. ``shown_as`` is the name used in messages. Raises `SwerlError` C001, C002 or C003."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise fail(
            "SWERL-C001",
            f"cannot read {path}: {error.strerror}",
            "give the path of a configuration file with --config or CONFIG=",
            str(path),
        ) from error
    except UnicodeDecodeError as error:
        raise fail("SWERL-C001", f"{path} is not UTF-8 text", "save the file as UTF-8", str(path)) from error
    return parse(text, shown_as or str(path))


def parse(text: str, name: str) -> Document:
    """Same for text already in hand."""
    try:
        node = _compose(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = str(Place(name, mark.line + 1, mark.column + 1)) if mark else name
        raise fail("SWERL-C002", f"not valid YAML: {error.problem or error.context}", "mend the syntax at this place", where) from error
    except yaml.YAMLError as error:
        raise fail("SWERL-C002", f"not valid YAML: {error}", "mend the syntax", name) from error
    if node is None:
        return Document({})
    if not isinstance(node, yaml.MappingNode):
        raise fail("SWERL-C002", "the file is not a mapping of sections", "write sections such as `model:` at the top level", name)
    places: dict[KeyPath, Place] = {}
    twice: list[Problem] = []
    values = _value(node, (), name, places, twice)
    if twice:
        raise SwerlError(*twice)
    return Document(values, places)


def scalar(text: str) -> Any:
    """The value of a plain YAML scalar."""
    for kind, pattern in _SCALARS:
        if pattern.match(text):
            if kind == "null":
                return None
            if kind == "bool":
                return text.lower() == "true"
            return int(text) if kind == "int" else float(text)
    return text


def parse_value(text: str, name: str) -> Any:
    """One value as typed on a command line: a YAML scalar, list or mapping."""
    try:
        node = _compose(text)
    except yaml.YAMLError as error:
        raise fail(
            "SWERL-C009", f"{name}: {text!r} is not a YAML value", "quote the value, for example --set 'a.b=\"text: more\"'", "--set"
        ) from error
    return None if node is None else _value(node, (), name, {}, [])


def _compose(text: str) -> yaml.Node | None:
    loader = _Loader(text)
    try:
        return loader.get_single_node()
    finally:
        loader.dispose()


def _value(node: yaml.Node, path: KeyPath, name: str, places: dict[KeyPath, Place], twice: list[Problem]) -> Any:
    if isinstance(node, yaml.ScalarNode):
        return node.value if node.style else scalar(node.value)
    if isinstance(node, yaml.SequenceNode):
        items = []
        for index, child in enumerate(node.value):
            places[(*path, index)] = _place(child, name)
            items.append(_value(child, (*path, index), name, places, twice))
        return items
    mapping: dict[str, Any] = {}
    for key_node, child in node.value:
        key = key_node.value if isinstance(key_node, yaml.ScalarNode) else str(key_node.value)
        here = (*path, key)
        if key in mapping:
            twice.append(
                Problem("SWERL-C003", f"`{key}` appears twice", f"keep one; the other is at {places[here]}", str(_place(key_node, name)))
            )
        places[here] = _place(key_node, name)
        mapping[key] = _value(child, here, name, places, twice)
    return mapping


def _place(node: yaml.Node, name: str) -> Place:
    return Place(name, node.start_mark.line + 1, node.start_mark.column + 1)
