"""What a Python agent installs, pinned: the text of ``containers/agents/NAME.txt``, with one hash per file that may be installed.

Resolved for Linux on x86_64 and the Python of uv.lock, nothing published after the lock's day. A package's source is listed only where it
has no wheel.
"""

from __future__ import annotations

import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from swerl.environment.exports import run_uv

_PLATFORM = "x86_64-manylinux_2_28"
BUILD_REQUIRES = ("setuptools",)
"""What a source distribution among the pins is built with (``build.txt``)."""


def pinned(project: Path, requires: Sequence[str]) -> str:
    newest = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["uv"]["exclude-newer"]
    with tempfile.NamedTemporaryFile("w", suffix=".in") as wanted:
        wanted.write("\n".join(requires) + "\n")
        wanted.flush()
        line = [
            "pip",
            "compile",
            wanted.name,
            "--no-config",
            "--quiet",
            "--no-header",
            "--format",
            "pylock.toml",
            "--exclude-newer",
            newest,
        ]
        answer = run_uv([*line, "--python", sys.executable, "--python-platform", _PLATFORM], project)
    return "".join(_entry(package) for package in tomllib.loads(answer.decode())["packages"])


def _entry(package: dict[str, Any]) -> str:
    files = package.get("wheels") or [package["sdist"]]
    hashes = "".join(f" \\\n    --hash=sha256:{file['hashes']['sha256']}" for file in files)
    return f"{package['name']}=={package['version']}{hashes}\n"
