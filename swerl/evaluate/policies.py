"""Which policy is meant, where its weights are, and what its version is called.

A policy is named by a path or a URL: ``runs/X`` (its newest checkpoint that verifies), ``.../global_step_N`` (verified first), a Hugging
Face directory, a PEFT adapter's directory, or ``http(s)://...`` of an OpenAI-compatible server. Without a name it is the newest checkpoint
of the configuration's own run, and before there is one the policy that training would begin with.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from swerl.config import RunConfig
from swerl.errors import fail
from swerl.record import base, checkpoints
from swerl.record.rundir import RunDir

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_DECIDES = (".json", ".safetensors", ".bin", ".jinja", ".txt", ".model")  # what a policy says
_SAMPLE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Policy:
    """``path`` is a directory that vLLM can load, or None: then ``shards`` (a checkpoint's ``actor``) has to be merged first, or ``url`` is
    all there is. ``base`` is set where ``shards`` are adapters (a PEFT directory's too): the weights they are merged into. ``version`` is
    ``<lineage>:<step>`` of a checkpoint, else a name made of the content and step 0."""

    kind: Literal["checkpoint", "huggingface", "url"]
    name: str
    version: str
    path: Path | None = None
    shards: Path | None = None
    url: str | None = None
    base: Path | None = None


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
    if (path / "adapter_config.json").is_file():
        return of_adapter(path, config.model.model_path)
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
    if (under := base.of(path / "actor")) is not None:
        if said := base.fault(path / "actor", under):
            remedy = "bring the policy that the run began with back to its place: the checkpoint holds adapters alone"
            raise fail("SWERL-T061", f"the checkpoint does not verify: {said}", remedy, str(path))
        return Policy("checkpoint", str(path), marker["version"], shards=path / "actor", base=under)
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


def of_adapter(path: Path, otherwise: Path) -> Policy:
    """An adapter stands on the directory it names, or on ``otherwise`` where that is not here (a name of a hub)."""
    said = json.loads((path / "adapter_config.json").read_text()).get("base_model_name_or_path") or ""
    under = Path(said) if said and (Path(said) / "config.json").is_file() else otherwise
    of_directory(under)
    return Policy("huggingface", str(path), f"peft-{content_digest(path)}-{content_digest(under)}:0", shards=path, base=under)


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
    if policy.base is not None:
        shutil.rmtree(part, ignore_errors=True)
        command = adapter_command(python, "merge", policy, part)
    else:
        command = [str(python), "-P", "-m", "verl.model_merger", "merge", "--backend", "fsdp"]
        command += ["--local_dir", str(policy.shards), "--target_dir", str(part)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0 or not has_weights(part):
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise fail("SWERL-T062", f"the checkpoint's shards could not be merged: {last[:300]}", " ".join(command), str(policy.shards))
    part.rename(target)
    return target


def adapter_command(python: Path, form: Literal["peft", "merge"], policy: Policy, out: Path) -> list[str]:
    """The command that writes a policy of adapters to ``out``: as PEFT reads them, or with the weights they stand on."""
    return [str(python), "-P", "-m", "swerl.policy.adapter", form, str(policy.shards), str(policy.base), str(out)]
