"""Every id of the family has a meaning, and every meaning an id that is used."""

from __future__ import annotations

import re

from swerl.config.catalog import PROBLEMS
from swerl.config.schema import PROJECT_ROOT


def test_catalog_and_source_name_the_same_ids():
    used = set()
    for room in ("config", "render"):
        for path in (PROJECT_ROOT / "swerl" / room).glob("*.py"):
            if path.name != "catalog.py":
                used |= set(re.findall(r'"(SWERL-C\d{3})"', path.read_text()))
    assert used == set(PROBLEMS)


def test_no_other_room_uses_the_family():
    others = [
        path
        for path in (PROJECT_ROOT / "swerl").rglob("*.py")
        if not {"config", "render"} & set(path.relative_to(PROJECT_ROOT).parts)
        and re.search(r'fail\(\s*"SWERL-C\d|Problem\(\s*"SWERL-C\d', path.read_text())
    ]
    assert others == []
