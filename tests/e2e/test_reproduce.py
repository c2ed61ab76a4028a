"""A run done again gives the same numbers, bit for bit: from its recordings, and live with one trial at a time. Real verl, two steps."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from swerl.record.rundir import RunDir

from .world import ROOT, SWERL, Run

# The fixture's policy solves nothing; a reward by identity gives every group something to learn from, the same each time.
REWARD = """
import hashlib

def by_identity(result):
    who = result["identity"]
    return hashlib.sha256(f"{who['task_hash']}|{who['sample']}".encode()).digest()[0] / 255
"""
TWO_STEPS = {
    "training.total_steps": "2",
    "training.val_before_train": "false",
    "training.test_freq": "2",
    "reward.fn": "reward_of_the_test:by_identity",
}


@pytest.fixture(autouse=True)
def reward(tmp_path, monkeypatch) -> None:
    (tmp_path / "reward_of_the_test.py").write_text(REWARD)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def again(run: RunDir, *words: str) -> tuple[int, dict]:
    command = [str(SWERL), "reproduce", run.id, "--runs-dir", str(run.root.parent), "--json", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = done.stdout[done.stdout.index("{\n") :] if "{\n" in done.stdout else "{}"
    assert done.returncode in (0, 1), done.stdout[-2000:] + done.stderr[-4000:]
    return done.returncode, json.loads(lines) if lines != "{}" else {"output": done.stdout[-3000:] + done.stderr[-3000:]}


def assert_the_same(run: Run, code: int, result: dict) -> None:
    assert all(row.data["actor/grad_norm"] > 0 for row in run.metrics() if row.step > 0), "nothing was learned, so nothing was compared"
    assert result.get("differences") == [], result
    assert code == 0 and result["steps"] == 2 and result["numbers"] > 50 and result["tensors"] > 10 and result["exact_expected"]


@pytest.mark.long
def test_training_from_recordings_is_bit_for_bit(run_of, small_world):
    """Eight trials at a time in the run itself: their order is in no number. Twice, from the same recordings; then the model is another,
    which is named, and nothing starts."""
    run = run_of("recorded-from", **TWO_STEPS)
    run.start()
    assert run.wait() == 0, run.output()
    for _ in range(2):
        assert_the_same(run, *again(run.dir))
    model = Path(small_world["model.model_path"]) / "generation_config.json"
    text = model.read_text()
    try:
        model.write_text(text + "\n")
        code, told = again(run.dir)
    finally:
        model.write_text(text)
    assert code == 1 and [(p["id"], p["message"].split(" was ")[0]) for p in told["problems"]] == [
        ("SWERL-A021", "model.generation_config.json")
    ]


@pytest.mark.long
def test_a_serial_run_is_bit_for_bit_live(run_of):
    run = run_of("serial", **TWO_STEPS, **{"harbor_runtime.num_workers": "1"})
    run.start()
    assert run.wait() == 0, run.output()
    for _ in range(2):
        assert_the_same(run, *again(run.dir, "--live"))
