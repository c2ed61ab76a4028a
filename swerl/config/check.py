"""Schema validation and placeholders, as problems with ids and places. Pure: looks at values only, at no path and no machine.

Ids: C004 unknown key, C005 wrong type, C006 value not allowed, C007 placeholder left, C008 the reference's nested form,
C013 secret in a file, C014 key without effect.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from jsonschema_rs import Draft202012Validator

from swerl.config.compose import Composed
from swerl.config.document import KeyPath
from swerl.config.nearest import suggestion
from swerl.config.schema import keys, schema, sections
from swerl.errors import Problem

_PLACEHOLDER = re.compile(r"^human$|/path/to/|<[^<>\s][^<>]*>|REPLACE_ME|YOUR_[A-Z_]+|^changeme$|^CHANGEME$|^x{3,}$|^XXX+$")


def is_placeholder(value: Any) -> bool:
    """True for text a person was meant to replace: ``/path/to/...``, ``human``, ``<...>``, ``REPLACE_ME``, ``YOUR_...``, ``changeme``."""
    return isinstance(value, str) and bool(_PLACEHOLDER.search(value))


def check(composed: Composed) -> list[Problem]:
    """Everything wrong with the values, in the order of the schema; empty when they conform."""
    if "meta_info" in composed.values or (
        isinstance(composed.values.get("runtime_info"), Mapping) and "input" in composed.values["runtime_info"]
    ):
        return [_nested(composed)]
    problems = [p for error in _validator().iter_errors(dict(composed.values)) for p in _problems(error, composed)]
    for key in keys().values():
        path = tuple(key.name.split("."))
        value = _get(composed.values, path, key.default)
        where = composed.where(path) or "(default)"
        if is_placeholder(value) and not key.read_only:
            problems.append(
                Problem("SWERL-C007", f"`{key.name}` is still the placeholder {value!r}", f"fill it in: {key.description}", where)
            )
        if key.secret and value and not where.startswith("environment"):
            problems.append(
                Problem(
                    "SWERL-C013",
                    f"`{key.name}` holds a secret in a file",
                    f"remove it here and export {key.env}",
                    where,
                    severity="warning",
                )
            )
        if key.dead and value != key.default:
            problems.append(Problem("SWERL-C014", f"`{key.name}` has no effect: {key.dead}", "remove it", where, severity="warning"))
    return problems


@cache
def _validator() -> Draft202012Validator:
    return Draft202012Validator(dict(schema()))


def _problems(error: Any, composed: Composed) -> list[Problem]:
    path: KeyPath = tuple(error.instance_path)
    name = ".".join(map(str, path))
    where = composed.where(path) or "(file)"
    kind = error.kind.name
    if name in keys() and is_placeholder(_get(composed.values, path, None)):
        return []  # "fill it in" says more than "wrong type"
    if kind == "additionalProperties":
        return [_unknown((*path, extra), composed) for extra in error.kind.unexpected]
    if kind == "propertyNames":
        return [
            Problem(
                "SWERL-C004",
                f"not a dotted verl key under `{name}`: {error.message}",
                "write keys such as actor_rollout_ref.actor.ppo_epochs",
                where,
            )
        ]
    if kind == "type":
        wanted = " or ".join(error.kind.types)
        got = _get(composed.values, path, None)
        return [Problem("SWERL-C005", f"`{name}` must be {wanted}, not {_shape(got)}", _meaning(name), where)]
    return [Problem("SWERL-C006", f"`{name}`: {_reason(error)}", _meaning(name), where)]


def _unknown(path: KeyPath, composed: Composed) -> Problem:
    name = ".".join(map(str, path))
    known = [*sections(), *keys()]
    if name in known:  # `vllm.gen_tp: 2` as one word
        outer, _, inner = name.partition(".")
        return Problem("SWERL-C004", f"`{name}` is written as one word", f"write `{outer}:` and `{inner}:` below it", composed.where(path))
    return Problem(
        "SWERL-C004",
        f"there is no key `{name}`{suggestion(name, known)}",
        "correct the name or remove the line; docs/config.md lists every key, and verl's own keys go under `verl_overrides`",
        composed.where(path),
    )


def _nested(composed: Composed) -> Problem:
    path: KeyPath = ("meta_info",) if "meta_info" in composed.values else ("runtime_info", "input")
    return Problem(
        "SWERL-C008",
        "this file has the nested form (`meta_info`, `runtime_info.input`)",
        "rewrite it with `swerl config migrate <file>`; it lists what changes",
        composed.where(path),
    )


def _reason(error: Any) -> str:
    """The library's sentence, with a secret's text kept out of it."""
    name = ".".join(map(str, error.instance_path))
    key = keys().get(name)
    return f"does not satisfy `{error.kind.name}`" if key is not None and key.secret else error.message


def _meaning(name: str) -> str:
    key = keys().get(name)
    if key is None:
        return "see docs/config.md"
    default = f" (default {key.default!r})" if not is_placeholder(key.default) else ""
    return f"it is: {key.description}{default}"


def _shape(value: Any) -> str:
    names = {
        dict: "a mapping",
        list: "a list",
        str: "text",
        bool: "true/false",
        int: "a whole number",
        float: "a number",
        type(None): "empty",
    }
    shown = f" ({value!r})" if isinstance(value, int | float) and not isinstance(value, bool) else ""
    return names[type(value)] + shown


def _get(values: Any, path: KeyPath, default: Any) -> Any:
    for part in path:
        if (isinstance(values, Mapping) and part in values) or (isinstance(values, list) and isinstance(part, int)):
            values = values[part]
        else:
            return default
    return values
