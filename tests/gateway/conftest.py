"""A small policy directory without weights (tokenizer, templates), a gateway and a scripted engine in one event loop, and plain clients."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the helpers beside the tests, under --import-mode=importlib

from gatewaykit import CHATML, OPENERS, STRICT, write_model

from swerl.gateway.template import ChatTemplate


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy that speaks ChatML and hermes calls, as the demo policy does."""
    return write_model(tmp_path_factory.mktemp("policy"), CHATML)


@pytest.fixture(scope="session", params=[CHATML, STRICT, OPENERS], ids=["chatml", "strict", "openers"])
def template(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ChatTemplate:
    """Three kinds of chat template; see gatewaykit."""
    eos = ("<|user|>", "<|observation|>") if request.param is OPENERS else ("<|im_end|>", "<|endoftext|>")
    return ChatTemplate(write_model(tmp_path_factory.mktemp("policy"), request.param, eos))


@pytest.fixture(scope="session")
def vllm_reader(model_dir: Path):
    """vLLM's parsers, loaded once for all tests; safe in any event loop."""
    from swerl.gateway.parsers import VllmParsers

    reader = VllmParsers(model_dir, ChatTemplate(model_dir), "auto", None)
    reader.load_now()
    return reader
