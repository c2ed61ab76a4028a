"""Who may import whom: each room of the package stands on a floor, and an import goes to a lower floor.

Counted are all imports, inside functions and under ``TYPE_CHECKING`` too. So there is no circle between rooms, and what can break a room
stands below it. docs/architecture.md shows the same table.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FLOORS = (
    ("errors",),
    ("config", "data"),
    ("record", "facts", "policy"),
    ("environment", "cluster", "forecast", "gateway", "render", "watch"),
    ("trials", "trainer"),
    ("preflight",),
    ("runs",),
    ("artifacts", "evaluate"),
    ("dashboard",),
    ("report",),
    ("demo",),
    ("cli",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

# Arrows between rooms that do not go down: (from, to) -> why. The list may only get shorter.
EXCEPTIONS: dict[tuple[str, str], str] = {}


@cache
def modules() -> dict[str, Path]:
    """Dotted name -> file, of the whole package."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in (ROOT / "swerl").rglob("*.py")
    }


def imported(name: str, path: Path) -> set[str]:
    """Modules of the package that a module imports, anywhere in its text."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}:{node.lineno} imports relatively; this test reads absolute names"
            base = node.module or ""
            found |= {whole if (whole := f"{base}.{alias.name}") in modules() else base for alias in node.names}
    return {module for module in found if module.partition(".")[0] == "swerl"}


def room_of(module: str) -> str:
    """``swerl.runs.launch`` -> ``runs``; the package itself holds nothing and is no room."""
    return module.split(".")[1] if "." in module else ""


@cache
def arrows() -> dict[tuple[str, str], list[str]]:
    """(from, to) -> the imports that make the arrow, in words."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, path in sorted(modules().items()):
        for module in sorted(imported(name, path)):
            if room_of(module) and room_of(name) != room_of(module):
                found.setdefault((room_of(name), room_of(module)), []).append(f"{name} imports {module}")
    return found


def test_every_room_has_a_floor():
    assert {room_of(name) for name in modules()} - {""} == FLOOR.keys()


def test_imports_go_down():
    up = {pair for pair in arrows() if FLOOR[pair[0]] <= FLOOR[pair[1]]}
    unlisted = {pair: arrows()[pair] for pair in sorted(up - EXCEPTIONS.keys())}
    assert not unlisted, unlisted
    assert EXCEPTIONS.keys() <= up, f"these exceptions are not needed any more: {EXCEPTIONS.keys() - up}"


def test_facts_do_not_depend_on_what_a_run_wrote():
    assert ("facts", "record") not in arrows() and ("record", "facts") not in arrows()


def test_the_architecture_page_shows_these_floors():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    shown = [re.findall(r"`(\w+)`", line) for line in re.findall(r"^\| \d+ \| (.*?) \|", text, re.M)]
    assert [tuple(rooms) for rooms in reversed(shown)] == list(FLOORS)
