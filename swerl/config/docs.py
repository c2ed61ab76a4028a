"""docs/config.md and the answer to ``swerl config explain``: the schema in words. The page is generated; a test says it is up to date."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from swerl.config.nearest import suggestion
from swerl.config.schema import PROJECT_ROOT, Key, is_section, keys, schema, sections
from swerl.errors import fail

PAGE = PROJECT_ROOT / "docs" / "config.md"

_INTRODUCTION = """# Configuration

This page is generated from `schema/config.schema.json` by `swerl config docs`.

`config.yaml` says everything about a run. A profile (`profiles/<name>.yaml`, chosen with `PROFILE=<name>`) is laid over it key by key, then
`--set section.key=value`. Secrets come from the environment first. Relative paths are resolved against the directory of the configuration
file. An unknown key, a wrong type, a value out of bounds and a placeholder left in place are errors with file, line and column.

Each key lists: type and default; allowed values; *env*, its variable in the rendered environment file (the reference's name); *verl*, the
keys of verl it reaches; *read by*, the process of swerl that reads it. *Automatic* says what an empty value becomes.
"""


def page() -> str:
    """The whole page, ending in one newline."""
    parts = [_INTRODUCTION]
    for name, spec in schema()["properties"].items():
        if is_section(spec):
            parts += _section(name, spec)
        else:
            parts += [f"## {name}\n", _entry(keys()[name], heading=False)]
    return "\n".join(parts).rstrip() + "\n"


def explain(name: str) -> str:
    """One key, or the keys of one section. Raises C009 for a name that is neither."""
    if name in keys():
        return _entry(keys()[name], heading=True)
    if name in sections():
        return "\n".join(_entry(key, heading=True) for key in keys().values() if key.name.startswith(f"{name}."))
    raise fail("SWERL-C009", f"there is no key `{name}`{suggestion(name, list(keys()))}", "docs/config.md lists every key", name)


def _section(name: str, spec: Mapping[str, Any]) -> list[str]:
    parts = [f"{'#' * (2 + name.count('.'))} {name}\n", f"{spec.get('description', '')}\n"]
    for child, child_spec in spec["properties"].items():
        dotted = f"{name}.{child}"
        if not is_section(child_spec):
            if not keys()[dotted].read_only:
                parts.append(_entry(keys()[dotted], heading=True))
        elif child_spec.get("readOnly"):
            declared = {k: v.get("const") for k, v in child_spec["properties"].items()}
            where = f"`{declared['path']}`" + (f", `{declared['pattern']}`" if declared["pattern"] else "")
            parts.append(f"- **{dotted}**: {child_spec['description']} In {where}.\n")
        else:
            parts += _section(dotted, child_spec)
    return parts


def _entry(key: Key, heading: bool) -> str:
    title = (
        f"- **{key.name}** ({_type(key)}, default {_value(key.default)})" if heading else f"({_type(key)}, default {_value(key.default)})"
    )
    lines = [f"{title}: {key.description}" + (f" *Automatic:* {key.auto}" if key.auto else "")]
    facts = [
        ("allowed", _bounds(key.spec)),
        ("env", f"`{key.env}`" if key.env else ""),
        ("verl", ", ".join(f"`{v}`" for v in key.verl)),
        ("read by", ", ".join(key.used_by)),
        ("secret", "never written to a log, a manifest or a sandbox" if key.secret else ""),
        ("no effect", key.dead),
    ]
    told = "; ".join(f"*{label}* {text}" for label, text in facts if text)
    return "\n".join([*lines, *([f"  {told}"] if told else [])]) + "\n"


def _type(key: Key) -> str:
    names = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true/false", "array": "list", "object": "mapping"}
    return " or ".join(names.get(t, "null") for t in key.types)


def _value(value: Any) -> str:
    return f"`{orjson.dumps(value).decode()}`" if not isinstance(value, float) else f"`{value!r}`"


def _bounds(spec: Mapping[str, Any]) -> str:
    if "enum" in spec:
        return ", ".join(_value(v) for v in spec["enum"])
    words = {"minimum": "at least", "exclusiveMinimum": "more than", "maximum": "at most", "exclusiveMaximum": "less than"}
    bounds = [f"{word} {spec[name]}" for name, word in words.items() if name in spec]
    if "pattern" in spec:
        bounds.append(f"like `{spec['pattern']}`")
    return ", ".join(bounds)
