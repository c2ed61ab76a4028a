"""How many attempts an order is for: what was asked for, else what the configuration says."""

from swerl.config import load
from swerl.config.schema import PROJECT_ROOT
from swerl.evaluate.order import size


def of(mode, tasks=None, samples=None, profile="demo-cpu", **changes):
    overrides = {key.replace("__", "."): value for key, value in changes.items()}
    return size(mode, load(PROJECT_ROOT / "config.yaml", profile, overrides, env={}), tasks, samples)


def test_the_size_of_an_order():
    assert of("eval") == (0, 4) and of("eval", 3, 2) == (3, 2)
    assert of("infer") == (16, 8), "128 attempts: minutes on a laptop, not hours"
    assert of("infer", 0, 4) == (0, 4) and of("infer", 2) == (2, 8)
    assert of("infer", data__infer_tasks="5", data__infer_attempts="3") == (5, 3)
    everything = {"data__infer_tasks": "0", "data__infer_attempts": "0", "training__n_resp_per_prompt": "6"}
    assert of("infer", **everything) == (0, 6)
