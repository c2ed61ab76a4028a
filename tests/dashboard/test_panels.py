"""One list of panels for the page, the reports and the view in W&B."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from swerl.artifacts.outputs import wandb_run_ids, wandb_sync
from swerl.dashboard.panels import GROUPS, UNITS

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "wandb_view.py"


def view():
    spec = importlib.util.spec_from_file_location("wandb_view", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_metric_has_one_place_and_a_unit() -> None:
    names = [curve["name"] for group in GROUPS for curve in group["curves"]]
    assert len(names) == len(set(names)) and set(UNITS.values()) == {"number", "share", "seconds"}


def test_the_page_was_built_from_them() -> None:
    page = (ROOT / "swerl" / "dashboard" / "page" / "app.js").read_text()
    assert all(f'name:"{name}",unit:"{unit}"' in page for name, unit in UNITS.items())


def test_the_view_has_the_dashboards_groups_and_what_the_trainer_tells() -> None:
    layout = view().layout()
    assert [title for title, _ in layout[1:]] == [group["title"] for group in GROUPS]
    assert [metrics for _, panels in layout[1:] for _, metrics in panels] == [(name,) for name in UNITS]
    told = re.findall(r'"(swerl/[\w/{}]+)"', (ROOT / "swerl" / "trainer" / "journal.py").read_text())
    for _, metrics in layout[0][1]:
        for name in metrics:
            assert name in told or re.sub(r"\w+_s/mean$", "{phase}/mean", name) in told, name


def test_its_library_is_the_locks_wandb() -> None:
    head = SCRIPT.read_text().partition("# ///\n")[0].replace("# ", "").partition("/// script\n")[2]
    wanted = dict(word.split("==") for word in tomllib.loads(head)["dependencies"])
    locked = {package["name"]: package["version"] for package in tomllib.loads((ROOT / "uv.lock").read_text())["package"]}
    assert wanted["wandb"] == locked["wandb"] and "wandb-workspaces" not in locked


@pytest.mark.parametrize("words", [["no-entity"], ["me/project", "--view", "https://wandb.ai/me/project"]])
def test_a_wrong_address_is_refused(words: list[str]) -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True)
    assert done.returncode == 2 and words[-1] in done.stderr


@pytest.mark.slow
@pytest.mark.train
def test_what_is_logged_offline_has_the_same_names_everywhere(tmp_path: Path) -> None:
    """verl's own tracking, as the trainer uses it: W&B without a key, TensorBoard; nothing is sent."""
    code = """
from verl.utils.tracking import Tracking
tracking = Tracking("swerl", "first", ["wandb", "tensorboard"], {"trainer": {}})
for step in (1, 2):
    tracking.log({"critic/score/mean": step / 4, "swerl/val/resolve_rate": step / 8}, step=step)
tracking.finish()
"""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
    places = {
        "WANDB_MODE": "offline",
        "WANDB_RUN_ID": "0123456789abcdef",
        "WANDB_DIR": str(tmp_path),
        "TENSORBOARD_DIR": str(tmp_path / "tensorboard"),
        "HOME": str(tmp_path),
    }
    subprocess.run([sys.executable, "-c", code], env=environment | places, check=True, capture_output=True, timeout=300)

    kept = next(tmp_path.glob("wandb/offline-run-*"))
    assert wandb_run_ids(tmp_path) == [kept.name.rpartition("-")[2]] == ["0123456789abcdef"]
    assert wandb_sync(tmp_path, Path("env")) == [f"env/bin/wandb sync {kept}"]
    written = next(kept.glob("*.wandb")).read_bytes()
    assert b"critic/score/mean" in written and b"swerl/val/resolve_rate" in written

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    seen = EventAccumulator(str(tmp_path / "tensorboard"))
    seen.Reload()
    assert sorted(seen.Tags()["scalars"]) == ["critic/score/mean", "swerl/val/resolve_rate"]
    assert [(entry.step, entry.value) for entry in seen.Scalars("critic/score/mean")] == [(1, 0.25), (2, 0.5)]
