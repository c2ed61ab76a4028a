"""A checkpoint as a Hugging Face directory that others can load, checked by loading it: its logits are those of the trainer's shards.

The directory appears whole or not at all, with ``swerl_export.json`` in it: which checkpoint, which version, what the check found.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from swerl.config import RunConfig
from swerl.errors import fail
from swerl.evaluate.policies import Policy, adapter_command, merged
from swerl.record.rundir import write_json

RECORD = "swerl_export.json"
# Of the largest logit. Weights are trained in float32 and exported in the model's own type: bfloat16 keeps 8 bits of a number.
TOLERANCE = 0.05
SAME_CHOICES = 0.95


def export(policy: Policy, config: RunConfig, target: Path, say: Callable[[str], None], *, adapter: bool = False) -> dict[str, Any]:
    """Write ``policy``, a checkpoint, to ``target``, which must not exist, and return the record. A checkpoint of adapters is merged with
    the weights it stands on, or with ``adapter`` written as PEFT reads one. SWERL-T066 when it cannot be exported, SWERL-T067 when what
    was written does not answer as the checkpoint does."""
    if policy.kind != "checkpoint":
        raise fail("SWERL-T066", f"{policy.name} is no checkpoint", "name a run or a .../global_step_N", policy.name)
    if target.exists():
        raise fail("SWERL-T066", f"{target} exists", "name another directory with --out; nothing is replaced", str(target))
    if adapter and policy.base is None:
        raise fail("SWERL-T066", f"{policy.name} holds no adapters", "leave --adapter out: the whole policy is written", policy.name)
    target.parent.mkdir(parents=True, exist_ok=True)
    part, merging = target.with_name(f".{target.name}.part"), target.with_name(f".{target.name}.merging")
    shutil.rmtree(part, ignore_errors=True)
    try:
        if adapter:
            _write_adapter(policy, config, part)
        elif policy.path is not None:
            shutil.copytree(policy.path, part)
        else:
            merged(policy, config, merging, say).rename(part)
        say("comparing logits with the checkpoint's shards")
        found = check(Path(policy.name) / "actor", part, config, policy.base)
        record = {"checkpoint": policy.name, "version": policy.version, "check": found}
        if policy.base is not None:
            record["base"] = str(policy.base)
        write_json(part / RECORD, record)
        part.rename(target)
    finally:
        for left in (part, merging):
            shutil.rmtree(left, ignore_errors=True)
    return record


def _write_adapter(policy: Policy, config: RunConfig, into: Path) -> None:
    command = adapter_command(config.environment.venv_path / "bin" / "python", "peft", policy, into)
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise fail("SWERL-T066", f"the adapters cannot be written: {last[:300]}", " ".join(command), str(policy.shards))


def check(shards: Path, directory: Path, config: RunConfig, base: Path | None = None) -> dict[str, Any]:
    """What ``swerl.policy.same_logits`` found; SWERL-T067 where it is not the same policy, or cannot be loaded."""
    python = config.environment.venv_path / "bin" / "python"
    command = [str(python), "-P", "-m", "swerl.policy.same_logits", str(shards), str(directory), *([str(base)] if base else [])]
    done = subprocess.run(command, capture_output=True, text=True)
    remedy = " ".join(command)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise fail("SWERL-T067", f"the export cannot be loaded: {last[:300]}", remedy, str(directory))
    found = json.loads(done.stdout.strip().splitlines()[-1])
    if found["missing"] or found["unknown"]:
        names = ", ".join([*found["missing"], *found["unknown"]][:3])
        raise fail("SWERL-T067", f"the export and the checkpoint have other tensors: {names}", remedy, str(directory))
    if found["largest_difference"] > TOLERANCE * max(1.0, found["largest_logit"]) or found["same_choices"] < SAME_CHOICES:
        said = f"logits differ by {found['largest_difference']:.3g}; {found['same_choices']:.1%} of the choices are the same"
        raise fail("SWERL-T067", f"the export does not answer as the checkpoint does: {said}", remedy, str(directory))
    return found
