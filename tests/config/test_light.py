"""Configuration is quick and pulls in nothing heavy. Measured in a fresh interpreter, as a command runs."""

from __future__ import annotations

import resource
import subprocess
import sys

HEAVY = ("torch", "vllm", "ray", "verl", "wandb", "transformers", "harbor", "hydra", "omegaconf", "pyarrow", "aiohttp")


def run(code: str, root) -> str:
    return subprocess.run([sys.executable, "-c", code], cwd=root, check=True, capture_output=True, text=True).stdout


def test_importing_config_and_render_loads_nothing_heavy(root):
    modules = "swerl.config, swerl.config.docs, swerl.render, swerl.render.verl_keys, swerl.watch, swerl.watch.notify, swerl.watch.sample"
    code = f"import sys, {modules}; print([m for m in {HEAVY!r} if m in sys.modules])"
    assert run(code, root).strip() == "[]"


def test_validation_takes_less_than_half_a_second_of_cpu(root):
    """Processor time, so that a busy machine does not fail it; `make bench` measures the clock."""
    code = "from pathlib import Path; from swerl.config import load; load(Path('config.yaml'), 'demo-cpu')"
    run(code, root)  # once for the bytecode
    used = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run(code, root)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(used) < 0.5, used
