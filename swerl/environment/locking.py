"""A new lock, with a cool-down: releases younger than some days stay out, so that one that is withdrawn or hostile is not picked up on its
first day. `tool.uv.exclude-newer` in pyproject.toml holds the date, so that the lock is the same function of pyproject.toml everywhere.
"""

from __future__ import annotations

import datetime
import re
import sys
from pathlib import Path

from swerl.environment.exports import run_uv
from swerl.errors import fail

_LINE = re.compile(r'^exclude-newer = "([^"]*)"$', re.MULTILINE)


def cutoff(today: datetime.date, cool_down_days: int) -> str:
    """The first moment whose releases are too young."""
    return f"{today - datetime.timedelta(days=cool_down_days)}T00:00:00Z"


def move_cutoff(pyproject: Path, value: str) -> None:
    """Write the date into pyproject.toml; never an earlier one than it has, which would drop releases that were accepted before."""
    text = pyproject.read_text(encoding="utf-8")
    match = _LINE.search(text)
    if match is None:
        raise fail("SWERL-E037", "tool.uv has no exclude-newer", 'add exclude-newer = "YYYY-MM-DDT00:00:00Z" to [tool.uv]', str(pyproject))
    if match[1] < value:
        pyproject.write_text(text[: match.start(1)] + value + text[match.end(1) :], encoding="utf-8")


def make_lock(project: Path, today: datetime.date, cool_down_days: int, upgrade: bool = False) -> None:
    """Resolve anew on the public index alone. Locked versions stay where they may, unless ``upgrade``."""
    move_cutoff(project / "pyproject.toml", cutoff(today, cool_down_days))
    run_uv(["lock", "--python", sys.executable, *(["--upgrade"] if upgrade else [])], project)
