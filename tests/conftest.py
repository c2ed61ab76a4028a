"""Settings for all tests. Each room's tests live in ``tests/<room>``; what a test needs and cannot find is an error, not a skip.

Two things hold for the whole suite: it leaves nothing on the machine (`left`), and it neither reads nor writes ``runs/`` and ``artifacts/``
of the checkout, which are the user's: `make test` gives the same answer before and after `make demo`.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Timing belongs to the benchmarks: on a shared two-core machine a deadline per example fails for reasons of its own.
settings.register_profile("swerl", deadline=None)
settings.load_profile("swerl")

_spec = importlib.util.spec_from_file_location("swerl_test_left", Path(__file__).with_name("left.py"))
_left = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = _left  # where dataclasses look for it
_spec.loader.exec_module(_left)

ROOT = Path(__file__).resolve().parents[1]
USERS = tuple(f"{ROOT / name}{os.sep}" for name in ("runs", "artifacts"))
LOOKS = frozenset({"open", "os.listdir", "os.scandir", "os.mkdir", "os.remove", "os.rename", "sqlite3.connect"})
_touched: list[str] = []


def _look(event: str, arguments: tuple[object, ...]) -> None:
    if event in LOOKS and arguments and isinstance(arguments[0], (str, os.PathLike)):
        path = os.fspath(arguments[0])
        if isinstance(path, str) and f"{path}{os.sep}".startswith(USERS):
            _touched.append(f"{event} {path}")


sys.addaudithook(_look)


@pytest.fixture(autouse=True)
def _the_users_runs_are_left_alone() -> Iterator[None]:
    """In this process; programs that a test starts are given folders of their own."""
    _touched.clear()
    yield
    assert not _touched, "a test has looked into the checkout's runs/ or artifacts/"


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_left_on_the_machine() -> Iterator[None]:
    before = _left.begin()
    yield
    _left.end_standins()
    found = _left.left(before)
    assert not found, "this session has left:\n" + "\n".join(found)
