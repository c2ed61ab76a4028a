"""A key that a process of ours is said to read (`x-used-by`) is read there, and what is read has an effect.

Where a process takes its settings from the configuration in one place, another value of the key must give other settings, and each setting
must be asked for somewhere in the room. For the other claims the source is searched.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from swerl.config import RunConfig
from swerl.config.schema import PROJECT_ROOT, Key, keys
from swerl.gateway import settings as gateway
from swerl.trials import settings as runner
from swerl.watch import Terms
from swerl.watch.notify import Notifier

from ..render.test_mutation import BASES, _value, configured, other_value

ROOMS = {
    "gateway": "gateway",
    "runner": "trials",
    "supervisor": "runs",
    "watchdog": "watch",
    "preflight": "preflight",
    "trainer": "trainer",
    "artifacts": "artifacts",
    "evaluation": "evaluate",
}
CLAIMS = [(key, room) for key in keys().values() if not key.read_only for room in key.used_by]


def sources(room: str) -> list[str]:
    extra = [PROJECT_ROOT / "swerl" / "cli"] if room == "supervisor" else []  # the command that starts a run plans its processes
    return [p.read_text() for home in [PROJECT_ROOT / "swerl" / ROOMS[room], *extra] for p in Path(home).rglob("*.py")]


def reads(text: str, key: Key) -> bool:
    """``config.section.key``, or a section held in a local name and then ``.key``."""
    section, leaf = key.section.rpartition(".")[2], key.leaf
    return bool(re.search(rf"\.{section}\.{leaf}\b", text)) or (
        bool(re.search(rf"\b\w+(?:, \w+)* = .*\.{section}\b", text)) and bool(re.search(rf"\.{leaf}\b", text))
    )


@pytest.mark.parametrize(("key", "room"), CLAIMS, ids=[f"{key.name}-{room}" for key, room in CLAIMS])
def test_the_room_reads_the_key(key: Key, room: str):
    assert any(reads(text, key) for text in sources(room)), f"nothing in swerl/{ROOMS[room]} reads {key.name}"


RUN = Path("/runs/one")
# What a process of ours works with, made from a configuration in one place.
SETTINGS: dict[str, Callable[[RunConfig], Any]] = {
    "gateway": lambda config: gateway.settings_from(config, RUN),
    "runner": lambda config: runner.settings_from(config, RUN),
    "watchdog": lambda config: (Terms.of(config, total_steps=None, checkpoint_bytes=None), Notifier.of(config)),
}
KINDS = tuple(BASES.values())  # a claim holds in one of these: a value may not matter in every kind of run


@cache
def settings_of(room: str, kind: int) -> Any:
    return SETTINGS[room](configured(*KINDS[kind]))


@pytest.mark.parametrize(("key", "room"), [c for c in CLAIMS if c[1] in SETTINGS and not c[0].secret], ids=lambda x: getattr(x, "name", x))
def test_another_value_of_the_key_is_another_setting(key: Key, room: str):
    changed = False
    for number, (profile, sets) in enumerate(KINDS):
        value = other_value(key, _value(configured(profile, sets).as_dict(), key))
        changed |= SETTINGS[room](configured(profile, {**sets, key.name: value})) != settings_of(room, number)
    assert changed, f"{key.name} is read and thrown away"


@pytest.mark.parametrize(
    ("cls", "room"), [(gateway.GatewaySettings, "gateway"), (runner.RunnerSettings, "runner")], ids=["gateway", "runner"]
)
def test_every_setting_is_asked_for(cls: type, room: str):
    elsewhere = [p.read_text() for p in (PROJECT_ROOT / "swerl" / ROOMS[room]).rglob("*.py") if p.name != "settings.py"]
    home = Path(PROJECT_ROOT / "swerl" / ROOMS[room] / "settings.py").read_text()
    asked = "\n".join([*elsewhere, *re.findall(r"self\.\w+", home)])
    assert [f.name for f in fields(cls) if not re.search(rf"\.{f.name}\b", asked)] == []


def test_rooms_are_known():
    assert {room for _, room in CLAIMS} <= set(ROOMS)


def test_the_runner_takes_its_trial_settings_from_render():
    assert any("trial_settings(" in text for text in sources("runner"))
