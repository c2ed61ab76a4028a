"""The lock in other formats, for installers and scanners that do not read uv.lock: pylock.toml (PEP 751), hashed requirements and a
CycloneDX 1.5 bill of materials, one of each per environment.

``uv export --frozen`` does the work; nothing is resolved and no index is asked. The same lock and the same uv give the same bytes: the
bill's time is left out and its serial number is derived from its content.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import orjson

from swerl.environment.lock import Lock
from swerl.errors import fail

_SERIALS = uuid.UUID("b0f7c9a2-7f2f-5e0b-9d1c-5a4f3b1e8c60")
"""Namespace of the serial numbers; any constant would do, this one must stay."""


def export_files(lock: Lock, environment: str, extras: Sequence[str]) -> dict[str, bytes]:
    """File name to content for one environment; ``environment`` is the name that goes into the file names."""
    return {
        f"pylock.{environment}.toml": _uv(lock, extras, "pylock.toml"),
        f"requirements.{environment}.txt": _uv(lock, extras, "requirements.txt", "--no-annotate", "--no-emit-local"),
        f"sbom.{environment}.cdx.json": stable_sbom(_uv(lock, extras, "cyclonedx1.5", "--preview-features", "sbom-export")),
    }


def stable_sbom(raw: bytes) -> bytes:
    """The bill without its time and with a serial number that is a function of the rest."""
    bill = orjson.loads(raw)
    bill["metadata"].pop("timestamp", None)
    bill.pop("serialNumber", None)
    content = orjson.dumps(bill, option=orjson.OPT_SORT_KEYS)
    bill["serialNumber"] = f"urn:uuid:{uuid.uuid5(_SERIALS, content.decode())}"
    return orjson.dumps(bill, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def clean_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment without what would point uv at another index or another place: a lock or an export must not know of it."""
    prefixes = ("PIP_", "UV_INDEX", "UV_DEFAULT_INDEX", "UV_EXTRA_INDEX", "UV_FIND_LINKS", "UV_CONFIG_FILE", "UV_EXCLUDE_NEWER")
    return {key: value for key, value in environ.items() if not key.startswith(prefixes)}


def _uv(lock: Lock, extras: Sequence[str], format: str, *options: str) -> bytes:
    chosen = [word for extra in extras for word in ("--extra", extra)]
    common = ("--quiet", "--frozen", "--offline", "--no-header", "--no-emit-project")
    return run_uv(["export", *common, "--format", format, *options, *chosen], lock.path.parent)


def find_uv(project: Path) -> str:
    """uv of the PATH, else the one that `make setup` put into the project."""
    found = shutil.which("uv") or shutil.which(str(project / ".venv" / "uv" / "bin" / "uv"))
    if found is None:
        raise fail("SWERL-E019", "uv is not on the PATH", "run `make setup`, or `pip install uv`", "uv")
    return found


def run_uv(words: Sequence[str], project: Path) -> bytes:
    """Run `uv WORDS` in the project and return what it prints; SWERL-E019 carries uv's own words."""
    done = subprocess.run([find_uv(project), *words], cwd=project, env=clean_environ(os.environ), capture_output=True, check=False)
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()
        raise fail("SWERL-E019", f"`uv {' '.join(words[:2])}` failed: {said}", "run the command by hand in the project", str(project))
    return done.stdout
