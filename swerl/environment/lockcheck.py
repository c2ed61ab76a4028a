"""Rules that the lock keeps, beyond being the resolution of pyproject.toml: where it points, what it pins, and one CUDA.

``lock_problems(lock)`` reads the file only. ``is_current(lock)`` asks uv whether pyproject.toml and the lock agree (`uv lock --check`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from urllib.parse import urlsplit

from swerl.environment import platforms
from swerl.environment.exports import run_uv
from swerl.environment.lock import Lock, Package
from swerl.errors import Problem, SwerlError

INDEX = "https://pypi.org/simple"
FILES_HOST = "files.pythonhosted.org"

# Packages of the CUDA toolkit carry the toolkit's version; the libraries beside it (cuDNN, NCCL, ...) have versions of their own.
CUDA_TOOLKIT = (
    "nvidia-cuda-cccl", "nvidia-cuda-crt", "nvidia-cuda-cupti", "nvidia-cuda-nvcc", "nvidia-cuda-nvrtc", "nvidia-cuda-runtime",
    "nvidia-nvjitlink", "nvidia-nvtx", "nvidia-nvvm", "cuda-toolkit",
)  # fmt: skip

ENVIRONMENTS = {"gpu": ("gpu", "dev"), "cpu": ("cpu", "dev"), "trials": ("trials", "dev")}
"""The environments that ship, by the name that files and images carry, and their extras. What is tested is what ships: `dev` is in each."""


def lock_problems(lock: Lock) -> list[Problem]:
    return [*_sources(lock), *_platform(lock), *_conflicts(lock), *_cuda(lock)]


def is_current(lock: Lock) -> bool:
    """Whether `uv lock --check` accepts the lock for pyproject.toml, offline: a sound lock needs no resolution."""
    try:
        run_uv(["lock", "--check", "--offline", "--python", sys.executable], lock.path.parent)
    except SwerlError as error:
        if "needs to be updated" in str(error) or "No solution found" in str(error):
            return False
        raise
    return True


def _sources(lock: Lock) -> Iterator[Problem]:
    remedy = "run `make lock`, which asks the public index only"
    for entry in lock.raw["package"]:
        package = lock.packages[entry["name"], entry.get("version", "")]
        place = f"{lock.path.name}: {package.name} {package.version}"
        if package.index is None:
            local = entry["source"].get("editable") or entry["source"].get("directory") or entry["source"].get("virtual")
            if local is None or local.startswith(("/", "..")):
                message = f"the source {dict(entry['source'])} is neither the public index nor a folder of the project"
                yield Problem("SWERL-E020", message, remedy, place)
            continue
        if package.index != INDEX:
            yield Problem("SWERL-E020", f"the index is {package.index}, not {INDEX}", remedy, place)
        yield from _artifacts(package, place, remedy)


def _artifacts(package: Package, place: str, remedy: str) -> Iterator[Problem]:
    if not package.artifacts:
        yield Problem("SWERL-E021", "no artifact is locked", remedy, place)
    for artifact in package.artifacts:
        url = urlsplit(artifact.url)
        if (url.scheme, url.netloc) != ("https", FILES_HOST):
            yield Problem("SWERL-E020", f"{artifact.url} is not on {FILES_HOST}", remedy, place)
        if len(artifact.sha256) != 64:
            yield Problem("SWERL-E021", f"{artifact.filename} has no sha256", remedy, place)


def _platform(lock: Lock) -> Iterator[Problem]:
    if lock.raw.get("requires-python") != "==3.12.*":
        yield Problem("SWERL-E022", "requires-python is not ==3.12.*", "set it in pyproject.toml and lock anew", lock.path.name)
    if lock.raw.get("supported-markers") != ["platform_machine == 'x86_64' and sys_platform == 'linux'"]:
        yield Problem("SWERL-E022", "the lock is not limited to linux x86_64", "set tool.uv.environments", lock.path.name)


def _conflicts(lock: Lock) -> Iterator[Problem]:
    wanted = set(ENVIRONMENTS)
    if not any(wanted <= group for group in lock.conflicts):
        yield Problem("SWERL-E023", f"extras {sorted(wanted)} are not declared as conflicting", "set tool.uv.conflicts", lock.path.name)


def _cuda(lock: Lock) -> Iterator[Problem]:
    for (name, version), _ in sorted(lock.packages.items()):
        if name in CUDA_TOOLKIT and not version.startswith(f"{platforms.CUDA}."):
            remedy = f"add {name}=={platforms.CUDA}.* to tool.uv.constraint-dependencies and lock anew"
            yield Problem("SWERL-E024", f"{name} is {version}, the toolkit is {platforms.CUDA}", remedy, lock.path.name)
