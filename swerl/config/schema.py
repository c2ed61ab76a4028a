"""The schema as data: ``schema/config.schema.json`` is the contract, this module reads it.

A `Key` is one leaf of the contract under its dotted name (``vllm.gen_tp``). Sections nest at most two deep. Free mappings
(``verl_overrides``) and arrays are leaves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import orjson

PROJECT_ROOT = Path(__file__).resolve().parents[2]
_CANDIDATES = (PROJECT_ROOT / "schema" / "config.schema.json", Path(__file__).resolve().parent / "config.schema.json")


@dataclass(frozen=True, slots=True)
class Key:
    """One leaf: ``spec`` is its JSON Schema, the rest are swerl's own annotations, empty where absent."""

    name: str
    spec: Mapping[str, Any]
    default: Any
    description: str
    types: tuple[str, ...]
    env: str = ""
    verl: tuple[str, ...] = ()
    used_by: tuple[str, ...] = ()
    auto: str = ""
    path: str = ""
    dead: str = ""
    secret: bool = False
    read_only: bool = False

    @property
    def section(self) -> str:
        return self.name.rpartition(".")[0]

    @property
    def leaf(self) -> str:
        return self.name.rpartition(".")[2]


def schema_path() -> Path:
    """The schema beside the package (a checkout) or inside it (a wheel)."""
    for path in _CANDIDATES:
        if path.is_file():
            return path
    raise FileNotFoundError(f"no config.schema.json at any of {', '.join(map(str, _CANDIDATES))}: the installation is incomplete")


@cache
def schema() -> Mapping[str, Any]:
    return MappingProxyType(orjson.loads(schema_path().read_bytes()))


@cache
def keys() -> Mapping[str, Key]:
    """Every leaf by dotted name, in the schema's order."""
    return MappingProxyType({key.name: key for key in _leaves("", schema(), read_only=False)})


@cache
def sections() -> tuple[str, ...]:
    """Dotted names of all sections, outer before inner."""
    return tuple(_sections("", schema()))


def defaults() -> dict[str, Any]:
    """A fresh nested document holding every key's default."""
    return _defaults(schema())


def outputs() -> dict[str, dict[str, Any]]:
    """``runtime_info.output`` as declared: name to description, path, pattern and value (null). A run fills a copy in its directory."""
    return _defaults(schema()["properties"]["runtime_info"])["output"]


def is_section(spec: Mapping[str, Any]) -> bool:
    return "properties" in spec


def types_of(spec: Mapping[str, Any]) -> tuple[str, ...]:
    """JSON types a value may have, read from ``type``, else from the members of ``enum`` or ``const``."""
    if "type" in spec:
        declared = spec["type"]
        return (declared,) if isinstance(declared, str) else tuple(declared)
    members = spec["enum"] if "enum" in spec else [spec["const"]]
    return tuple(dict.fromkeys(_json_type(m) for m in members))


def _json_type(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    return {int: "integer", float: "number", str: "string", list: "array", dict: "object"}[type(value)]


def _leaves(prefix: str, node: Mapping[str, Any], read_only: bool):
    for name, spec in node["properties"].items():
        dotted = f"{prefix}{name}"
        locked = read_only or spec.get("readOnly", False)
        if is_section(spec):
            yield from _leaves(f"{dotted}.", spec, locked)
            continue
        yield Key(
            name=dotted,
            spec=spec,
            default=spec["default"],
            description=spec.get("description", ""),
            types=types_of(spec),
            env=spec.get("x-env", ""),
            verl=tuple(spec.get("x-verl", ())),
            used_by=tuple(spec.get("x-used-by", ())),
            auto=spec.get("x-auto", ""),
            path=spec.get("x-path", ""),
            dead=spec.get("x-dead", ""),
            secret=spec.get("x-secret", False),
            read_only=locked,
        )


def _sections(prefix: str, node: Mapping[str, Any]):
    for name, spec in node["properties"].items():
        if is_section(spec):
            yield f"{prefix}{name}"
            yield from _sections(f"{prefix}{name}.", spec)


def _defaults(node: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _defaults(spec) if is_section(spec) else orjson.loads(orjson.dumps(spec["default"]))
        for name, spec in node["properties"].items()
    }
