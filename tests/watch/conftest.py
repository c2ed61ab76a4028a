from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("swerl_test_stream", Path(__file__).with_name("streamkit.py"))
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)


@pytest.fixture
def stream(tmp_path):
    """A healthy eight-GPU run, booted, before its first step."""
    made = _module.Stream(tmp_path)
    made.boot(replicas=2)
    return made


@pytest.fixture
def stream_with(tmp_path):
    """The same with other keys: ``stream_with({"watch.steps": 1})``; not booted."""
    return lambda sets, root=tmp_path: _module.Stream(root, **sets)
