"""Everything a run directory says before the first process starts: what was asked for, and what it was asked of.

The snapshot is a complete configuration file: ``swerl train --config config.snapshot.yaml`` asks for the same run (equal digest). The
manifest has one entry per attempt (each start of a supervisor), so a run that was resumed from other code says so.
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

import psutil
import yaml

from swerl.config import RunConfig, dump_resolved
from swerl.config.schema import PROJECT_ROOT, keys
from swerl.record.redact import redact
from swerl.record.rundir import RunDir, read_json, write_atomic, write_json
from swerl.render import render
from swerl.render import write as write_rendered
from swerl.runs.cleanup import token_of
from swerl.runs.situation import gpus, situation

PACKAGES = ("verl", "vllm", "torch", "transformers", "ray", "tensordict", "transferqueue", "harbor", "aiohttp", "numpy")


def prepare(config: RunConfig, run: RunDir, *, attempt: int, command: Sequence[str]) -> None:
    """Write snapshot, resolved configuration, rendered files and manifest. Needs the run's lock. Repeatable; the manifest is last, and a
    directory without one is not yet a run."""
    run.create()
    write_atomic(run.config_snapshot, snapshot(config).encode())
    write_atomic(run.resolved, dump_resolved(config))
    write_rendered(render(config, run), run)
    before = read_json(run.manifest) or {}
    found = situation(config)
    source = source_state(PROJECT_ROOT)
    difference = source.pop("diff")
    if difference:
        write_atomic(run.root / f"source.{attempt}.diff", redacted(difference, config.secrets.values()))
    entry = {
        "attempt": attempt,
        "started": time.time(),
        "command": [redact(word, config.secrets.values()) for word in command],
        "config": {"file": str(config.file), "profile": config.profile, "digest": config.digest},
        "source": source,
        "lock_sha256": found["locks"]["uv.lock"],
        "situation": found,
        "versions": {
            "swerl": version("swerl"),
            "python": platform.python_version(),
            "train": installed(config.environment.venv_path),
            "trials": installed(config.environment.trials_venv_path),
        },
        "host": host(),
        "wandb_run_id": wandb_run_id(config, run, attempt),
    }
    attempts = [old for old in before.get("attempts", ()) if old["attempt"] != attempt]
    write_json(run.manifest, {"run": run.id, "project": config.experiment.project_name, "attempts": [*attempts, entry]})


def wandb_run_id(config: RunConfig, run: RunDir, attempt: int) -> str | None:
    """What the trainer's W&B run of this start will be called there; None where W&B is not used. Each start has one of its own."""
    if "wandb" not in config.experiment.logger or config.credentials.wandb_mode == "disabled":
        return None
    return hashlib.sha256(f"{token_of(run)} {attempt}".encode()).hexdigest()[:16]


def snapshot(config: RunConfig) -> str:
    """The whole configuration as a file, without secrets."""
    profile = f" with profile {config.profile}" if config.profile else ""
    head = f"# {config.run_id}: every key as this run used it, from {config.file.name}{profile}. Secrets come from the environment.\n"
    values = config.as_dict()
    for key in keys().values():
        *sections, leaf = key.name.split(".")
        place: Any = values
        for section in sections:
            place = place.get(section) or {}
        if leaf in place and place[leaf] is None and "null" not in key.types:
            place[leaf] = ""  # a file says "none" that way where the key is a text
    return head + yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)


def redacted(text: bytes, secrets: Iterable[str]) -> bytes:
    """``text`` without secrets, those of the configuration and others; a key written into a tracked config.yaml is part of its diff."""
    return redact(text.decode("utf-8", "surrogateescape"), secrets).encode("utf-8", "surrogateescape")


def source_state(root: Path) -> dict[str, Any]:
    """Commit and uncommitted changes of the project. ``commit`` is None outside a repository; ``diff`` holds tracked changes as bytes, and
    ``dirty_sha256`` covers them and the untracked files' contents."""
    commit = _git(root, "rev-parse", "HEAD")
    if commit is None:
        return {"commit": None, "dirty": None, "dirty_sha256": None, "diff": b""}
    difference = _git(root, "diff", "HEAD", "--binary") or b""
    untracked = sorted(filter(None, (_git(root, "ls-files", "--others", "--exclude-standard", "-z") or b"").split(b"\0")))
    digest = hashlib.sha256(difference)
    for name in untracked:
        file = root / os.fsdecode(name)
        digest.update(name + b"\0" + (hashlib.sha256(file.read_bytes()).digest() if file.is_file() else b""))
    dirty = bool(difference or untracked)
    return {
        "commit": commit.decode().strip(),
        "dirty": dirty,
        "dirty_sha256": digest.hexdigest() if dirty else None,
        "untracked": [os.fsdecode(name) for name in untracked],
        "diff": difference,
    }


def installed(environment: Path) -> Mapping[str, str]:
    """Versions of the packages that decide results, read from the environment's metadata without importing any of it."""
    site = sorted(environment.glob("lib/python3.*/site-packages"))
    found = {d.metadata["Name"].lower(): d.version for d in distributions(path=[str(path) for path in site])}
    return {name: found[name] for name in PACKAGES if name in found}


def host() -> dict[str, Any]:
    """The machine, as far as it may matter to results and times."""
    return {
        "name": platform.node(),
        "kernel": platform.release(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_mb": psutil.virtual_memory().total >> 20,
        "gpus": gpus(),
        "interpreter": sys.executable,
    }


def _git(root: Path, *arguments: str) -> bytes | None:
    """What git prints, or None where it cannot answer: no repository, or no git."""
    try:
        found = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, timeout=60)
    except FileNotFoundError:
        return None
    return found.stdout if found.returncode == 0 else None
