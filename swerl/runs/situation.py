"""What a run's numbers depend on besides its configuration: code, locks, environments, model, data, machine.

Digests, so that two situations can be compared; read at each start of a run into its manifest, and again by ``swerl reproduce``.
Hashing a model is minutes of reading for a large one: ``HashedFiles`` keeps digests beside the runs, by path, size, time and inode.
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import orjson

from swerl.config import RunConfig
from swerl.config.schema import PROJECT_ROOT, keys, schema_path
from swerl.environment.lock import load_lock
from swerl.environment.standing import standing
from swerl.facts.indexes import IndexUnreadable, read_index
from swerl.record.cards import nvidia_smi
from swerl.record.hashing import file_sha256, files_sha256
from swerl.record.process import IMAGE_VARIABLE
from swerl.record.rundir import read_json, write_json

HASHES = ".hashes.json"

# Variables that change what is computed or how. Values that may be secret are left out by name.
_ENVIRON = (
    "CUDA_", "CUBLAS_", "FLASH_", "GOMP_", "HF_", "KMP_", "MKL_", "NCCL_", "NVIDIA_", "OMP_", "PYTHON", "PYTORCH_", "RAY_", "SWERL_",
    "TOKENIZERS_", "TORCH", "TRITON_", "VERL_", "VLLM_", "LD_LIBRARY_PATH", "LD_PRELOAD",
)  # fmt: skip
_SECRET = ("KEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL")


class HashedFiles:
    """sha256 of files, remembered in ``path`` as long as size, time and inode stay."""

    def __init__(self, path: Path):
        self.path = path
        self._known: dict[str, list[Any]] = read_json(path) or {}

    def digests(self, files: Iterable[Path]) -> dict[Path, str]:
        wanted = {file: self._state(file) for file in files}
        new = [file for file, state in wanted.items() if self._known.get(str(file), [None])[:-1] != state]
        for file, digest in zip(new, files_sha256(new), strict=True):
            self._known[str(file)] = [*wanted[file], digest]
        if new:
            write_json(self.path, {name: state for name, state in self._known.items() if Path(name).exists()})
        return {file: self._known[str(file)][-1] for file in wanted}

    @staticmethod
    def _state(file: Path) -> list[int]:
        seen = file.stat()
        return [seen.st_size, seen.st_mtime_ns, seen.st_ino]


def situation(config: RunConfig) -> dict[str, Any]:
    """Plain data, no secret in it. Parts that cannot be read are None: preflight has said why."""
    lock = load_lock(PROJECT_ROOT / "uv.lock")
    return {
        "config": {"digest": config.digest, "schema_sha256": file_sha256(schema_path())},
        "locks": {name: _sha256(PROJECT_ROOT / name) for name in ("uv.lock", "flake.lock")},
        "environments": {
            "train": standing(config.environment.venv_path, lock),
            "trials": standing(config.environment.trials_venv_path, lock),
        },
        "image": os.environ.get(IMAGE_VARIABLE),
        "model": _model(config.model.model_path, HashedFiles(config.experiment.runs_dir / HASHES)),
        "data": {"train": _tasks(config.data.train_index), "val": _tasks(config.data.val_index)},
        "seeds": {"data": config.data.seed, "vllm": config.vllm.seed},
        "machine": {"architecture": platform.machine(), "processor": processor(), "cpus": len(os.sched_getaffinity(0)), "gpus": gpus()},
        "environ": environ(os.environ),
    }


def environ(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables that may matter, without those whose name or place in the schema says that they are secret."""
    secret = {key.env for key in keys().values() if key.secret and key.env}
    return {
        name: value
        for name, value in sorted(variables.items())
        if name.startswith(_ENVIRON) and name not in secret and not any(word in name.upper() for word in _SECRET)
    }


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The CPU's model: vector units decide how sums are grouped, so equal numbers need an equal one."""
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())


def gpus() -> list[str]:
    """Names of the GPUs this process may use, one line each; empty without a driver."""
    try:
        found = subprocess.run(
            nvidia_smi(["--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]),
            capture_output=True,
            text=True,
            timeout=20,
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return []
    return found.stdout.splitlines() if found.returncode == 0 else []


def _model(path: Path, hashed: HashedFiles) -> dict[str, str] | None:
    if not path.is_dir():
        return None
    files = sorted(p for p in path.rglob("*") if p.is_file())
    return {str(file.relative_to(path)): digest for file, digest in hashed.digests(files).items()}


def _tasks(index: Path) -> dict[str, Any] | None:
    """The index file's digest, and one over the content hashes of its tasks in order."""
    try:
        rows = read_index(index)
    except IndexUnreadable:
        return None
    tasks = hashlib.sha256(orjson.dumps([row.task_hash for row in rows])).hexdigest()
    return {"index_sha256": file_sha256(index), "tasks": len(rows), "tasks_sha256": tasks}


def _sha256(path: Path) -> str | None:
    return file_sha256(path) if path.is_file() else None
