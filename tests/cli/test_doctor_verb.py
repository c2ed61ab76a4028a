"""``swerl doctor`` on generated tasks in real sandboxes; one task's solution is broken on purpose."""

import json
import subprocess
import sys

import pytest

from swerl.config.schema import PROJECT_ROOT
from swerl.data import index

pytestmark = pytest.mark.slow


def doctor(tasks, *words):
    sets = ("--config", str(PROJECT_ROOT / "config.yaml"), "--profile", "demo-cpu", "--set", f"data.data_dir={tasks}")
    return subprocess.run([sys.executable, "-m", "swerl.cli", "doctor", *sets, *words], capture_output=True, text=True, timeout=300)


def test_sound_tasks_pass_and_a_broken_one_is_named(tmp_path):
    generate = [sys.executable, "-m", "swerl.data.generate", "--out", str(tmp_path), "--train", "2", "--val", "2"]
    subprocess.run(generate, check=True, capture_output=True)
    done = doctor(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "100.0% of 4 tasks are sound" in done.stdout and "swerl preflight" in done.stdout.rpartition("next: ")[2]

    victim = index.read(tmp_path / "val.parquet")[0]
    (victim.path / "solution" / "solve.sh").write_text("#!/bin/sh\ntrue\n")
    index.write(tmp_path / "val.parquet", index.build(tmp_path / "val", "val"))
    done = doctor(tmp_path, "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 1 and not found["ok"] and found["counts"] == {"sound": 3, "oracle_fails": 1}
    assert [task["task"] for task in found["unsound"]] == [victim.task_id] and found["unsound"][0]["oracle"] == [0.0]
    assert doctor(tmp_path, "--threshold", "0.7").returncode == 0
    done = doctor(tmp_path / "nowhere")
    assert done.returncode == 1 and "SWERL-D004" in done.stderr and "SWERL-R020" in done.stderr
