"""Every key is live: changing it changes what is rendered, or a process of ours reads it, or the schema says why it has no effect.

The environment file does not count: nothing of swerl starts from it. Each claim of ``x-verl`` and ``x-env`` is checked as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import orjson
import pytest

from swerl.config import RunConfig, examine
from swerl.config.schema import PROJECT_ROOT, Key, keys
from swerl.errors import SwerlError
from swerl.record.rundir import RunDir
from swerl.render import process_environment, render
from swerl.render.verl import plain_name

OPENHANDS = "harbor.agents.installed.openhands:OpenHands"
KUBERNETES = "harbor.environments.ack:ACKEnvironment"
# Runs in which different keys matter.
BASES: dict[str, tuple[str | None, dict[str, Any]]] = {
    "eight GPUs": (None, {}),
    "CPU": ("demo-cpu", {}),
    "OpenHands on Kubernetes": (
        None,
        {"harbor_agent.agent_import_path": OPENHANDS, "harbor_agent.environment_import_path": KUBERNETES},
    ),
    "two machines": (None, {"infrastructure.nnodes": 2}),
    "named agent and sandbox": (
        None,
        {
            "harbor_agent.agent_import_path": None,
            "harbor_agent.environment_import_path": None,
            "harbor_agent.environment_type": "docker",
            "harbor_agent.runtime_image": "",
        },
    ),
}
WRITABLE = [k for k in keys().values() if not k.read_only]
_WORDS = {
    "model.reasoning_parser": "qwen3",
    "credentials.wandb_mode": "disabled",
    "harbor_agent.environment_type": "podman",
    "data.train_index": "other.parquet",
    "data.val_index": "other.parquet",
    "harbor_agent.agent_import_path": "other.module:Agent",
    "harbor_agent.environment_import_path": "other.module:Sandbox",
    "harbor_agent.runtime_image_subpath": "other/path",
    "harbor_agent.runtime_mount_path": "/other/path",
    "infrastructure.bind_host": "10.0.0.9",
    "infrastructure.node0_ip": "10.0.0.9",
}


def configured(profile: str | None, sets: Mapping[str, Any], env: Mapping[str, str] | None = None) -> RunConfig:
    overrides = {name: orjson.dumps(value).decode() for name, value in sets.items()}
    found = examine(PROJECT_ROOT / "config.yaml", profile, overrides, env or {})
    assert found.config is not None, found.problems
    return found.config


def other_value(key: Key, value: Any) -> Any:
    """A value the schema allows that is not ``value``."""
    if key.name in _WORDS:
        return _WORDS[key.name]
    if key.spec.get("examples"):
        return key.spec["examples"][0]
    if "enum" in key.spec:
        return next(v for v in key.spec["enum"] if v not in (value, None, "auto"))
    if "boolean" in key.types:
        return not value
    if "integer" in key.types or "number" in key.types:
        return _other_number(key, value)
    return "other-value" if key.path == "" else "/other/value"


def _other_number(key: Key, value: Any) -> Any:
    step = 1 if "integer" in key.types else 0.125
    low = key.spec.get("minimum", key.spec.get("exclusiveMinimum", 0))
    for candidate in ((value if value is not None else low) + step, (value or 0) - step, low + step):
        above = candidate >= key.spec.get("minimum", candidate) and candidate > key.spec.get("exclusiveMinimum", candidate - 1)
        below = candidate <= key.spec.get("maximum", candidate) and candidate < key.spec.get("exclusiveMaximum", candidate + 1)
        if above and below and candidate != value:
            return candidate
    raise AssertionError(f"no other number for {key.name}")


def surfaces(profile: str | None, sets: Mapping[str, Any], env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Everything that reaches a process, by name; a combination that is refused is a surface of its own."""
    try:
        config = configured(profile, sets, env)
        run = RunDir.at(config.run_dir)
        rendered = render(config, run)
    except SwerlError as error:
        return {"refused": [p.id for p in error.problems]}
    overrides = dict(o.partition("=")[::2] for o in rendered.overrides)
    return {
        "overrides": {plain_name(name): value for name, value in overrides.items()},
        "environment": process_environment(config, run),
        "runner_environment": rendered.runner_environment,
        "agent_loop": rendered.agent_loop,
        "trial": rendered.trial,
        "ray": rendered.ray,
        "file": dict(line.partition("=")[::2] for line in rendered.environment_file.splitlines()),
    }


@cache
def base(name: str) -> dict[str, Any]:
    return surfaces(*BASES[name])


@cache
def changed(key_name: str) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """``(base's name, before, after)`` of the change of one key in each base."""
    return list(_changes(keys()[key_name]))


def _changes(key: Key) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    for name, (profile, sets) in BASES.items():
        if key.secret:
            yield name, base(name), surfaces(profile, sets, {key.env: "k" * 40})
            continue
        current = sets.get(key.name, _value(values_of(name), key))
        yield name, base(name), surfaces(profile, {**sets, key.name: other_value(key, current)})


@cache
def values_of(name: str) -> dict[str, Any]:
    return configured(*BASES[name]).as_dict()


def _value(values: Any, key: Key) -> Any:
    for part in key.name.split("."):
        values = values[part]
    return values


def differs(before: dict[str, Any], after: dict[str, Any]) -> bool:
    return any(before.get(part) != after.get(part) for part in (before.keys() | after.keys()) - {"file"})


@pytest.mark.parametrize("key", WRITABLE, ids=lambda k: k.name)
def test_a_changed_key_changes_something(key: Key):
    live = any(differs(before, after) for _, before, after in changed(key.name))
    if key.dead:
        assert not live, f"{key.name} is declared dead and is not"
    else:
        assert live or key.used_by, f"{key.name} changes nothing: read it somewhere, or declare it x-dead with the reason"


@pytest.mark.parametrize("key", [k for k in WRITABLE if k.verl], ids=lambda k: k.name)
def test_the_verl_keys_named_by_the_schema_are_those_that_change(key: Key):
    moved = set()
    for _, before, after in changed(key.name):
        if "overrides" in after:
            pair = before["overrides"], after["overrides"]
            moved |= {name for name in pair[0].keys() | pair[1].keys() if pair[0].get(name) != pair[1].get(name)}
    assert set(key.verl) <= moved, f"not changed: {sorted(set(key.verl) - moved)}"


@pytest.mark.parametrize("key", [k for k in WRITABLE if k.env and not k.secret and not k.dead], ids=lambda k: k.name)
def test_the_variable_named_by_the_schema_follows_the_key(key: Key):
    assert any("file" in after and before["file"].get(key.env) != after["file"].get(key.env) for _, before, after in changed(key.name))


@pytest.mark.parametrize("key", [k for k in keys().values() if k.read_only], ids=lambda k: k.name)
def test_what_a_run_fills_in_cannot_be_set(key: Key, tmp_path):
    path = tmp_path / "config.yaml"
    section, _, leaf = key.name.removeprefix("runtime_info.output.").rpartition(".")
    path.write_text(f"model: {{model_path: /m}}\ndata: {{data_dir: /d}}\nruntime_info: {{output: {{{section}: {{{leaf}: other}}}}}}\n")
    assert [p.id for p in examine(path, env={}).problems] in (["SWERL-C005"], ["SWERL-C006"])


def test_every_dead_key_says_why():
    assert all(len(k.dead) > 20 for k in keys().values() if k.dead)
