"""Python agents for sandboxes: a copy of this machine's Python and one environment per agent on it.

The copy (``python/``) is there because a task's image may have another Python or none, and because a sandbox does not see the directory
that this machine's Python lives in. The environments name it by the place where the sandbox sees it, so they run in there only.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from swerl.environment.agents import PythonAgent
from swerl.environment.exports import run_uv
from swerl.errors import fail
from swerl.facts.sandbox import MOUNT

_LEFT_OUT = (
    "test",
    "idlelib",
    "ensurepip",
    "tkinter",
    "turtledemo",
    "lib2to3",
    "site-packages",
    "dist-packages",
    "__pycache__",
    "config-*",
)
_HERE = b"$ORIGIN/../lib"


def install_environments(project: Path, agents: Sequence[PythonAgent], out: Path) -> None:
    """``out/NAME`` for each agent, from ``containers/agents/NAME.txt`` alone: uv refuses other versions and hashes. Only
    func-timeout is built here, because it has no wheel, with the setuptools that build.txt pins."""
    python = copy_python(out / "python")
    pins = project / "containers" / "agents"
    for agent in agents:
        environment = out / agent.name
        run_uv(["venv", "--quiet", "--no-config", "--relocatable", "--no-project", "--python", str(python), str(environment)], project)
        line = ["pip", "install", "--quiet", "--no-config", "--python", str(environment / "bin" / "python"), "--link-mode", "copy"]
        line += ["--require-hashes", "--no-deps", "--only-binary", ":all:", "--no-binary", "func-timeout"]
        line += ["--build-constraints", str(pins / "build.txt"), "--compile-bytecode"]
        run_uv([*line, "-r", str(pins / f"{agent.name}.txt")], project)
        _point_at_mount(environment, python.name)


def copy_python(target: Path) -> Path:
    """Interpreter and standard library of the Python that runs this, without packages. Returns the copy's interpreter."""
    base, name = Path(sys.base_prefix), f"python{sys.version_info.major}.{sys.version_info.minor}"
    interpreter = Path(sys._base_executable).resolve()  # type: ignore[attr-defined]
    library = Path(sysconfig.get_path("stdlib", vars={"installed_base": str(base), "base": str(base)}))
    (target / "bin").mkdir(parents=True)
    shutil.copytree(library, target / "lib" / name, ignore=shutil.ignore_patterns(*_LEFT_OUT))
    copy = target / "bin" / name
    shutil.copy2(interpreter, copy)
    if shared := sysconfig.get_config_var("INSTSONAME"):
        place = Path(sysconfig.get_config_var("LIBDIR") or base / "lib") / shared
        if shared.startswith("libpython") and ".so" in shared and place.is_file():
            shutil.copy2(place, target / "lib" / shared)
            _find_library_beside(copy, place.parent)
    return copy


def _find_library_beside(interpreter: Path, library: Path) -> None:
    """Where the interpreter names its library by an absolute path (RUNPATH), let it look beside itself. The string is replaced where it
    stands, padded with zeros, so nothing in the file moves."""
    data, there = interpreter.read_bytes(), os.fsencode(library) + b"\0"
    if there not in data:
        return  # the system's loader finds it
    if len(there) <= len(_HERE):
        raise fail(
            "SWERL-E038",
            f"the Python at {interpreter} cannot be moved: its library path is too short",
            "use a Python elsewhere",
            str(library),
        )
    interpreter.write_bytes(data.replace(there, _HERE.ljust(len(there), b"\0")))


def _point_at_mount(environment: Path, interpreter: str) -> None:
    home = f"{MOUNT}/python/bin"
    settings = environment / "pyvenv.cfg"
    lines = [f"home = {home}" if line.startswith("home") else line for line in settings.read_text(encoding="utf-8").splitlines()]
    settings.write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name in ("python", "python3", interpreter):
        (environment / "bin" / name).unlink(missing_ok=True)
        (environment / "bin" / name).symlink_to(f"{home}/{interpreter}")
