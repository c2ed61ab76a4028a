"""One small world a session, and runs in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .world import Run, make_world, run_in


@pytest.fixture(scope="session")
def small_world(tmp_path_factory) -> dict[str, str]:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def run_of(small_world) -> Iterator:
    """``run_of(name, **settings)`` gives a Run; whatever still runs at the end of the test is ended."""
    made: list[Run] = []

    def make(name: str, **settings: str) -> Run:
        made.append(run_in(small_world, name, settings))
        return made[-1]

    yield make
    for run in made:
        run.end()
