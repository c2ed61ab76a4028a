"""A key that a process of ours is said to read (`x-used-by`) is read in that process's source."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from swerl.config.schema import PROJECT_ROOT, Key, keys

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


def test_rooms_are_known():
    assert {room for _, room in CLAIMS} <= set(ROOMS)


def test_the_runner_takes_its_trial_settings_from_render():
    assert any("trial_settings(" in text for text in sources("runner"))
