"""Made runs of a few steps: written once, copied for whoever changes them."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _made_run():
    spec = importlib.util.spec_from_file_location("made_run", ROOT / "benchmarks" / "dashboard" / "made_run.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["made_run"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 steps of 8 tasks with 4 samples, a validation every 6. Only to be read."""
    module = _made_run()
    shape = module.Shape(steps=12, tasks=8, samples=4, pool=20, val_tasks=4, val_every=6)
    return module.make(tmp_path_factory.mktemp("made") / "runs" / "made", shape).root


@pytest.fixture
def run_dir(made: Path, tmp_path: Path) -> Path:
    """A copy of the made run that may be changed."""
    return Path(shutil.copytree(made, tmp_path / "runs" / "made", ignore=shutil.ignore_patterns("dashboard.sqlite*")))
