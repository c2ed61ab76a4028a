"""The typed configuration and the schema are one contract."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from jsonschema_rs import meta

from swerl.config.runconfig import RunConfig, Secrets
from swerl.config.schema import Key, keys, schema, schema_path, sections

# Values that are decided by `resolve`, so that null is gone from the type: everything automatic, except what may stay open.
STAYS_OPEN = {"infrastructure.ray_num_cpus", "infrastructure.object_store_mb", "vllm.block_size"}


def typed_leaves(cls: Any = RunConfig, prefix: str = "") -> dict[str, Any]:
    found = {}
    hints = get_type_hints(cls)
    for field in fields(cls):
        hint = hints[field.name]
        name = f"{prefix}{field.name}"
        if is_dataclass(hint) and hint is not Secrets:
            found |= typed_leaves(hint, f"{name}.")
        elif "." in name or field.name == "verl_overrides":
            found[name] = hint
    return found


def test_the_schema_is_a_valid_schema():
    assert meta.is_valid(dict(schema()))
    assert schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema_path().name == "config.schema.json"


def test_every_key_has_a_field_and_every_field_a_key():
    wanted = {k.name for k in keys().values() if not k.secret and not k.read_only}
    assert set(typed_leaves()) == wanted


def test_every_secret_is_in_secrets_and_nowhere_else():
    assert {f.name for f in fields(Secrets)} == {k.leaf for k in keys().values() if k.secret}


def test_every_section_is_closed_and_described():
    def walk(node):
        assert node["additionalProperties"] is False
        for spec in node["properties"].values():
            if "properties" in spec:
                assert spec["description"]
                walk(spec)

    walk(schema())
    assert len(sections()) == len(set(sections()))


@pytest.mark.parametrize("key", [k for k in keys().values() if not k.secret and not k.read_only], ids=lambda k: k.name)
def test_field_type_equals_schema_type(key: Key):
    hint = typed_leaves()[key.name]
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    assert (NoneType in members) == may_be_none(key), hint
    kinds = {json_kind(m) for m in members if m is not NoneType}
    assert kinds == {t for t in key.types if t != "null"}, hint
    words = {w for m in members if get_origin(m) is Literal for w in get_args(m)}
    if words:
        assert words == {w for w in key.spec["enum"] if w is not None} - ({"auto"} if key.auto else set())


def may_be_none(key: Key) -> bool:
    if key.name in (
        "k8s.kubeconfig",
        "harbor_runtime.sandbox.rootfs",
        "harbor_agent.runtime_dir",
    ):  # "" means none, and a Path cannot be empty
        return True
    if key.name == "harbor_agent.host_path_mounts":  # null is no mount: an empty tuple
        return False
    return "null" in key.types and (not key.auto or key.name in STAYS_OPEN)


def json_kind(hint: Any) -> str:
    origin = get_origin(hint)
    if origin is tuple:
        return "array"
    if origin is Literal:
        (kind,) = {type(w) for w in get_args(hint)}
        return {str: "string"}[kind]
    if isinstance(origin, type):
        return "object"
    return {str: "string", Path: "string", int: "integer", float: "number", bool: "boolean"}[hint]


@pytest.mark.parametrize("key", list(keys().values()), ids=lambda k: k.name)
def test_every_key_is_documented_and_its_default_conforms(key: Key):
    from jsonschema_rs import Draft202012Validator

    assert key.description.strip() and len(key.types) >= 1
    Draft202012Validator(dict(key.spec)).validate(key.default)
    for example in key.spec.get("examples", []):
        Draft202012Validator(dict(key.spec)).validate(example)


def test_environment_names_are_unique():
    names = [k.env for k in keys().values() if k.env]
    assert len(names) == len(set(names))
