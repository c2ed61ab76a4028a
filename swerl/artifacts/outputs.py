"""``runtime_info.output``: the handoff contract of the reference, its ``value`` fields filled in from what the run left."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from swerl.config import RunConfig
from swerl.config.schema import defaults
from swerl.record.checkpoints import newest
from swerl.record.rundir import RunDir

_WANDB_RUN = re.compile(r"(?:offline-)?run-[\d_]+-(\w+)")


def runtime_output(run: RunDir, config: RunConfig, results: dict[str, Any]) -> dict[str, Any]:
    """The section with paths of this run; a value stays null where the run left nothing of the kind."""
    output = defaults()["runtime_info"]["output"]
    names = {"<exp_name>": config.experiment.exp_name, "<project_name>": config.experiment.project_name}
    for entry in output.values():
        for field in ("path", "pattern"):
            for mark, name in names.items():
                entry[field] = entry[field].replace(mark, name) if entry.get(field) else entry.get(field)
        entry["path"] = str(run.root / entry["path"])
    checkpoint, _ = newest(run.checkpoints) if run.checkpoints.is_dir() else (None, [])
    output["checkpoint_path"]["value"] = str(checkpoint.actor) if checkpoint else None
    best = results["best"]
    output["val_resolve_rate"]["value"] = best["resolve_rate"]["value"] if best else None
    output["training_curves"]["value"] = str(run.metrics) if run.metrics.is_file() else None
    ids = wandb_run_ids(run.root)
    output["training_curves"]["wandb_run_id"] = ids[-1] if ids else None
    for name in ("training_log", "vllm_log"):
        path = Path(output[name]["path"]) / output[name]["pattern"]
        output[name]["value"] = str(path) if path.is_file() else None
    found = next(Path(output["trajectory_log"]["path"]).glob(output["trajectory_log"]["pattern"]), None)
    output["trajectory_log"]["value"] = str(found.parents[2]) if found else None
    return output


def wandb_run_ids(root: Path) -> list[str]:
    """Ids of the W&B runs below the run directory, one for each start of the trainer, newest last: from their directories' names."""
    found = [(path.stat().st_mtime, match[1]) for path in root.glob("wandb/*run-*") if (match := _WANDB_RUN.fullmatch(path.name))]
    return [id for _, id in sorted(found)]


def wandb_sync(root: Path, environment: Path) -> list[str]:
    """Commands that send what W&B kept below the run directory while it was offline, oldest first; none for what was sent already."""
    found = [path for path in root.glob("wandb/offline-run-*") if path.is_dir() and not list(path.glob("*.wandb.synced"))]
    return [f"{environment / 'bin' / 'wandb'} sync {path}" for path in sorted(found)]
