from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("swerl_test_site", Path(__file__).parents[1] / "preflight" / "site.py")
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)


_stream_spec = importlib.util.spec_from_file_location("swerl_test_stream", Path(__file__).parents[1] / "watch" / "streamkit.py")
_stream_module = importlib.util.module_from_spec(_stream_spec)
_stream_spec.loader.exec_module(_stream_module)


@pytest.fixture
def stream(tmp_path: Path):
    """What the processes of an eight-GPU run write for readers, and a watchdog that reads it; see ``tests/watch/streamkit.py``."""
    return _stream_module.Stream(tmp_path)


@pytest.fixture
def site(tmp_path: Path):
    """A healthy site; see ``tests/preflight/site.py``."""
    return _module.Site(tmp_path)


@pytest.fixture(scope="session")
def site_module():
    return _module
