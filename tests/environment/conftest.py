"""A small project with its lock and a small environment made of real RECORD files, to break in every way that verify must name."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest

from swerl.environment.installed import read_environment
from swerl.environment.lock import load_lock
from swerl.environment.records import anchors_of

PACKAGES = {"alpha": "1.0", "beta-tools": "2.1", "gamma": "0.3"}


def record_line(path: str, content: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
    return f"{path},sha256={digest},{len(content)}\n"


def install(site: Path, name: str, version: str, files: dict[str, bytes]) -> Path:
    """Lay out one distribution as an installer does and return its .dist-info folder."""
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    files = {**files, f"{info.name}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\nText\n".encode()}
    lines = []
    for path, content in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_bytes(content)
        lines.append(record_line(path, content))
    (info / "RECORD").write_text("".join(lines) + f"{info.name}/RECORD,,\n")
    return info


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """pyproject and lock of a project ``demo`` with extras ``one`` (alpha, beta-tools) and ``two`` (gamma), and an env with ``one``."""
    entries = "".join(
        f'[[package]]\nname = "{name}"\nversion = "{version}"\nsource = {{ registry = "https://pypi.org/simple" }}\n'
        f'wheels = [{{ url = "https://files.pythonhosted.org/packages/x/{name}-{version}-py3-none-any.whl", '
        f'hash = "sha256:{hashlib.sha256(name.encode()).hexdigest()}", size = 10 }}]\n\n'
        for name, version in PACKAGES.items()
    )
    (tmp_path / "uv.lock").write_text(
        'version = 1\nrevision = 5\nrequires-python = "==3.12.*"\n'
        "supported-markers = [\"platform_machine == 'x86_64' and sys_platform == 'linux'\"]\n"
        'conflicts = [[{ package = "demo", extra = "one" }, { package = "demo", extra = "two" }]]\n\n'
        + entries
        + '[[package]]\nname = "demo"\nversion = "0"\nsource = { editable = "." }\n'
        '[package.optional-dependencies]\none = [{ name = "alpha" }, { name = "beta-tools" }]\ntwo = [{ name = "gamma" }]\n'
    )
    site = tmp_path / "env" / "lib" / "python3.12" / "site-packages"
    install(site, "alpha", "1.0", {"alpha/__init__.py": b"VALUE = 1\n", "alpha/data.bin": bytes(range(256))})
    command = {"beta_tools-2.1.dist-info/entry_points.txt": b"[console_scripts]\nbeta = beta_tools:run\n"}
    install(site, "beta-tools", "2.1", {"beta_tools.py": b"def run():\n    return 2\n", **command})
    (tmp_path / "env" / "pyvenv.cfg").write_text("version_info = 3.12.1\n")
    return tmp_path


@pytest.fixture
def anchors(project: Path) -> dict[str, tuple[str, str]]:
    return anchors_of(read_environment(project / "env"), load_lock(project / "uv.lock"))
