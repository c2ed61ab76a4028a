from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("swerl_test_site", Path(__file__).parents[1] / "preflight" / "site.py")
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)


@pytest.fixture
def site(tmp_path: Path):
    """A healthy site; see ``tests/preflight/site.py``."""
    return _module.Site(tmp_path)
