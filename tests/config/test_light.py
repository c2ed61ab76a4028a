"""Configuration is quick and pulls in nothing heavy. Measured in a fresh interpreter, as a command runs."""

from __future__ import annotations

import subprocess
import sys
import time

HEAVY = ("torch", "vllm", "ray", "verl", "wandb", "transformers", "harbor", "hydra", "omegaconf", "pyarrow", "aiohttp")


def run(code: str, root) -> str:
    return subprocess.run([sys.executable, "-c", code], cwd=root, check=True, capture_output=True, text=True).stdout


def test_importing_config_and_render_loads_nothing_heavy(root):
    loaded = run(
        f"import sys, swerl.config, swerl.config.docs, swerl.render, swerl.render.verl_keys; print([m for m in {HEAVY!r} if m in sys.modules])",
        root,
    )
    assert loaded.strip() == "[]"


def test_validation_takes_less_than_half_a_second(root):
    code = "from pathlib import Path; from swerl.config import load; load(Path('config.yaml'), 'demo-cpu')"
    run(code, root)  # once for the file cache and the bytecode
    times = []
    for _ in range(3):
        began = time.perf_counter()
        run(code, root)
        times.append(time.perf_counter() - began)
    assert min(times) < 0.5, times
