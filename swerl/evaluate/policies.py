"""Which policy is meant, where its weights are, and what its version is called.

A policy is named by a path or a URL: ``runs/X`` (its newest checkpoint that verifies), ``.../global_step_N`` (verified first), a Hugging
Face directory, or ``http(s)://...`` of an OpenAI-compatible server. Without a name it is the newest checkpoint of the configuration's own
run, and before there is one the policy that training would begin with.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from swerl.config import RunConfig
from swerl.errors import fail
from swerl.record import checkpoints
from swerl.record.rundir import RunDir

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_DECIDES = (".json", ".safetensors", ".bin", ".jinja", ".txt", ".model")  # what a policy says
_SAMPLE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Policy:
    """``path`` is a directory that vLLM can load, or None: then ``shards`` (a checkpoint's ``actor``) has to be merged first, or ``url`` is
    all there is. ``version`` is ``<lineage>:<step>`` of a checkpoint, else a name made of the content and step 0."""

    kind: Literal["checkpoint", "huggingface", "url"]
    name: str
    version: str
    path: Path | None = None
    shards: Path | None = None
    url: str | None = None


def choose(config: RunConfig, given: str | None) -> Policy:
    """SWERL-T060 when there is no such policy, SWERL-T061 when its checkpoint does not verify."""
    if given is None:
        run = RunDir.at(config.run_dir)
        return of_run(run) if checkpoints.committed(run.checkpoints) else of_directory(config.model.model_path)
    if given.startswith(("http://", "https://")):
        url = given.rstrip("/")
        return Policy("url", url, f"url-{hashlib.sha256(url.encode()).hexdigest()[:12]}:0", url=url)
    path = Path(given).expanduser().absolute()
    if (path / "checkpoints").is_dir():
        return of_run(RunDir.at(path))
    return of_checkpoint(path) if checkpoints.is_name(path.name) else of_directory(path)


def of_run(run: RunDir) -> Policy:
    newest, passed_over = checkpoints.newest(run.checkpoints)
    if newest is None:
        said = f": {passed_over[0]}" if passed_over else ""
        raise fail("SWERL-T061", f"no checkpoint of run {run.id} verifies{said}", "train it, or name another policy", str(run.checkpoints))
    return of_checkpoint(newest.path)


def of_checkpoint(path: Path) -> Policy:
    if found := checkpoints.faults(path):
        raise fail("SWERL-T061", f"the checkpoint does not verify: {found[0]}", "name another one; `swerl status` lists a run's", str(path))
    marker = checkpoints.read_marker(path)
    exported = path / "actor" / "huggingface"
    whole = has_weights(exported)
    return Policy("checkpoint", str(path), marker["version"], exported if whole else None, None if whole else path / "actor")


def of_directory(path: Path) -> Policy:
    if not (path / "config.json").is_file() or not has_weights(path):
        raise fail(
            "SWERL-T060",
            f"{path} holds no policy: config.json and weights (*.safetensors) are looked for",
            "name a Hugging Face directory, a checkpoint (.../global_step_N), a run's directory, or a URL",
            str(path),
        )
    return Policy("huggingface", str(path), f"hf-{content_digest(path)}:0", path)


def has_weights(path: Path) -> bool:
    return any(file for pattern in _WEIGHTS for file in path.glob(pattern))


def content_digest(path: Path) -> str:
    """Names a policy by its content: sizes, and both ends of every file that decides what it says."""
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()):
        if file.is_file() and not file.name.startswith(".") and file.suffix in _DECIDES:
            size = file.stat().st_size
            digest.update(f"{file.name} {size}\n".encode())
            with file.open("rb") as handle:
                digest.update(handle.read(_SAMPLE_BYTES))
                handle.seek(max(0, size - _SAMPLE_BYTES))
                digest.update(handle.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:12]


def merged(policy: Policy, config: RunConfig, into: Path, say: Callable[[str], None]) -> Path:
    """A directory that vLLM can load: ``policy.path``, or the shards merged by verl below ``into``, once. SWERL-T062 when verl cannot."""
    if policy.path is not None:
        return policy.path
    assert policy.shards is not None
    target = into / policy.version.replace(":", "-")
    if has_weights(target):
        return target
    say(f"merging the shards of {policy.shards} into {target}")
    into.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    python = config.environment.venv_path / "bin" / "python"
    command = [str(python), "-P", "-m", "verl.model_merger", "merge", "--backend", "fsdp"]
    command += ["--local_dir", str(policy.shards), "--target_dir", str(part)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0 or not has_weights(part):
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise fail("SWERL-T062", f"the checkpoint's shards could not be merged: {last[:300]}", " ".join(command), str(policy.shards))
    part.rename(target)
    return target
