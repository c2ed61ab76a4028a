"""Facts about CUDA and the driver, read from files and the driver library; torch is never imported."""

from __future__ import annotations

import ast
import ctypes
from dataclasses import dataclass
from pathlib import Path

from swerl.environment.inventory import driver_version

CUDA = "13.0"
"""The CUDA version that the locked torch is built with; every toolkit package of the lock is of this version."""

MINIMUM_DRIVER = 580
"""First driver branch that runs CUDA 13 programs."""


@dataclass(frozen=True, slots=True)
class Facts:
    """None stands for absent: no torch or a CPU build of it, no driver, no driver library."""

    torch_cuda: str | None
    driver: str | None
    driver_cuda: str | None


def read_facts(site_packages: Path) -> Facts:
    return Facts(torch_cuda(site_packages), driver_version(), driver_cuda())


def torch_cuda(site_packages: Path) -> str | None:
    """The CUDA version torch was built with, from its version.py; None without torch or for a CPU build."""
    version_file = site_packages / "torch" / "version.py"
    if not version_file.is_file():
        return None
    for node in ast.parse(version_file.read_text(encoding="utf-8")).body:
        target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0] if isinstance(node, ast.Assign) else None
        if isinstance(target, ast.Name) and target.id == "cuda" and isinstance(node.value, ast.Constant):
            return node.value.value
    return None


def driver_cuda() -> str | None:
    """The newest CUDA version that the driver library runs, such as ``13.0``; None where there is no libcuda.so.1."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    version = ctypes.c_int()
    if library.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return None
    return f"{version.value // 1000}.{version.value % 1000 // 10}"
