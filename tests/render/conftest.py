"""Configurations as `swerl render` meets them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from swerl.config import RunConfig, examine
from swerl.record.rundir import RunDir

ROOT = Path(__file__).resolve().parents[2]


def configured(profile: str | None = None, sets: Mapping[str, Any] | None = None, env: Mapping[str, str] | None = None) -> RunConfig:
    """The shipped configuration with a profile and values over it; placeholders stay."""
    overrides = {name: orjson.dumps(value).decode() for name, value in (sets or {}).items()}
    found = examine(ROOT / "config.yaml", profile, overrides, env or {})
    assert found.config is not None, found.problems
    return found.config


@pytest.fixture
def config() -> Callable[..., RunConfig]:
    return configured


@pytest.fixture
def run() -> RunDir:
    return RunDir.at("/runs/golden")


@pytest.fixture
def root() -> Path:
    return ROOT
