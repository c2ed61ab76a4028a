"""A small policy directory without weights (tokenizer, templates), a gateway and a scripted engine in one event loop, and plain clients."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the helpers beside the tests, under --import-mode=importlib

from gatewaykit import CHATML, write_model  # noqa: E402


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy that speaks ChatML and hermes calls, as the demo policy does."""
    return write_model(tmp_path_factory.mktemp("policy"), CHATML)


@pytest.fixture(scope="session")
def vllm_reader(model_dir: Path):
    """vLLM's parsers, loaded once for all tests; safe in any event loop."""
    from concurrent.futures import ThreadPoolExecutor

    from swerl.gateway.parsers import VllmParsers
    from swerl.gateway.template import ChatTemplate

    reader = VllmParsers(model_dir, ChatTemplate(model_dir), "auto", None, ThreadPoolExecutor(1))
    reader.load_now()
    return reader


@pytest.fixture
def tools() -> list[dict]:
    return json.loads(json.dumps(__import__("gatewaykit").TOOLS))
