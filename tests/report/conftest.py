"""The dashboard's made run, small, with transcripts of a few of its trials; and an archive's worth of hostile text."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import orjson
import pytest

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = (
    "</pre></style></title><script>alert(1)</script><img src=http://evil.example/x onerror=alert(2)>\x1b[31m\x00 ]]> &amp; 'q\" \ud800"
)


def made_module():
    if "made_run" not in sys.modules:
        spec = importlib.util.spec_from_file_location("made_run", ROOT / "benchmarks" / "dashboard" / "made_run.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["made_run"] = module
        spec.loader.exec_module(module)
    return sys.modules["made_run"]


def write_trial(folder: Path, words: str) -> None:
    """The files a trial leaves, with ``words`` wherever a sandbox may write."""
    for part in ("agent", "verifier", "answer"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    steps = [
        {"source": "user", "message": "Fix it. " + words},
        {
            "source": "agent",
            "message": words,
            "reasoning_content": words,
            "tool_calls": [{"tool_call_id": "1", "function_name": words, "arguments": {"command": words}}],
            "observation": {"results": [{"source_call_id": "1", "content": words}]},
        },
    ]
    text = json.dumps({"steps": steps})
    (folder / "agent" / "trajectory.json").write_text(text)
    (folder / "verifier" / "test-stdout.txt").write_text(words.encode("utf-8", "replace").decode())
    (folder / "answer" / "code.py").write_text(words.encode("utf-8", "replace").decode())


def make(root: Path, name: str, seed: int = 1, words: str = "plain words") -> Path:
    module = made_module()
    run = module.make(root / name, module.Shape(steps=8, tasks=6, samples=4, pool=16, val_tasks=4, val_every=4, seed=seed))
    resolved = orjson.loads(run.resolved.read_bytes())
    trials = root / f"{name}-trials"
    resolved["config"]["experiment"]["trials_dir"] = str(trials)
    run.resolved.write_bytes(orjson.dumps(resolved))
    for line in run.trials_journal.read_bytes().splitlines():
        entry = orjson.loads(line)
        if entry["kind"] == "settled" and entry["result"]["identity"]["version"] in ("L1:7", "L1:8"):
            write_trial(trials / entry["result"]["trial_name"], words)
    return run.root


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Only to be read."""
    return make(tmp_path_factory.mktemp("report"), "first")


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("report"), "second", seed=2)


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("report"), "hostile", words=HOSTILE)
