"""Pages made from the program's own texts are up to date, and every id has one place in one room."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest

from swerl.config.schema import PROJECT_ROOT
from swerl.preflight import CHECKS, explain
from swerl.preflight.docs import pages
from swerl.preflight.error_ids import FAMILIES, Use, mentioned, uses


@pytest.fixture(scope="module")
def source() -> list[Use]:
    return uses(PROJECT_ROOT / "swerl")


def test_pages_are_up_to_date():
    stale = [path.name for path, text in pages().items() if path.read_text() != text]
    assert not stale, "write them anew: python -m swerl.preflight.docs"


def test_every_id_of_the_source_has_an_anchor():
    text = (PROJECT_ROOT / "docs" / "troubleshooting.md").read_text()
    missing = {id for id in mentioned(PROJECT_ROOT / "swerl") if f"## {id}\n" not in text}
    assert not missing


def test_an_id_means_one_thing(source: list[Use]):
    """Two rooms may report the same problem; then they say the same of what to do. A verb speaks for the room behind it."""
    rooms, remedies = defaultdict(set), defaultdict(set)
    for use in source:
        rooms[use.id] |= {use.room} - {"cli"}
        remedies[use.id].add(use.remedy)
    assert not {id: remedies[id] for id in rooms if len(rooms[id]) > 1 and len(remedies[id]) > 1}
    assert {id[6] for id in rooms} <= set(FAMILIES)


def test_scan_reads_messages_remedies_and_variables(tmp_path: Path):
    package = tmp_path / "pkg"
    package.mkdir()
    (package / "m.py").write_text(
        "from x import fail, Problem\n"
        "def f(name):\n"
        '    text = f"no {name} here"\n'
        '    raise fail("SWERL-R901", text, "make one" if name else "leave it")\n'
        "class A:\n"
        "    def g(self):\n"
        '        return Problem("SWERL-R902", message="plain", remedy="do")\n'
        "    def h(self):\n"
        '        raise self._failure("SWERL-R903", self.child, f"ended {self.how}")\n'
        '        print(f"SWERL-R904 {error}")\n'
    )
    found = {u.id: (u.message, u.remedy, u.room) for u in uses(package)}
    assert found == {
        "SWERL-R901": ("no {name} here", "make one | leave it", "m"),
        "SWERL-R902": ("plain", "do", "m"),
        "SWERL-R903": ("ended {self.how}", "", "m"),
        "SWERL-R904": ("{error}", "", "m"),
    }


def test_checks_are_well_formed():
    ids = [c.id for c in CHECKS]
    assert len(ids) == len(set(ids)) and all(id.startswith("SWERL-P") and len(id) == 10 for id in ids)
    families = [c.family for c in CHECKS]
    for check in CHECKS:
        assert check.asks and check.remedy and check.title and not check.asks.endswith("."), check.id
        assert check.remedy[0].islower() or check.remedy[0] == "`", check.id
        assert check.slow or check.budget_s <= 10, check.id
        assert check.live or check.budget_s <= 2, check.id
    grouped = [f for i, f in enumerate(families) if i == 0 or families[i - 1] != f]
    assert len(grouped) == len(set(grouped)), "checks of a family stand together"


def test_explain():
    text = explain("swerl-p102")
    assert "SWERL-P102" in text and "do:" in text and "J14" in text and "docs/troubleshooting.md#swerl-p102" in text
    assert explain("p102") == text


def test_every_id_is_explained(source: list[Use]):
    """Checks, alarms and problems of every room, with what to do; an unknown one is one sentence with its neighbours."""
    for id, word in (("SWERL-W501", "raised when"), ("SWERL-R008", "says:"), ("c007", "placeholder"), ("SWERL-P110", "--deep")):
        assert word in explain(id), id
    for id in {use.id for use in source} | {check.id for check in CHECKS}:
        assert explain(id).endswith(f"docs/troubleshooting.md#{id.lower()}")
    with pytest.raises(ValueError, match=r"called 'SWERL-P999'; near it: SWERL-P9\d\d, "):
        explain("SWERL-P999")
    with pytest.raises(ValueError, match="an id looks like SWERL-P102"):
        explain("foo")


def test_nothing_heavy_is_imported():
    import subprocess
    import sys

    heavy = "('torch', 'vllm', 'ray', 'verl', 'wandb', 'transformers', 'harbor', 'pyarrow', 'pandas')"
    code = f"import sys, swerl.preflight, swerl.artifacts; found = [m for m in {heavy} if m in sys.modules]; assert not found, found"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_modules_are_small():
    for path in (PROJECT_ROOT / "swerl" / "preflight").glob("*.py"):
        text = path.read_text()
        assert len(text.splitlines()) <= 400, path
        assert ast.get_docstring(ast.parse(text)), path
