"""What a host has, told by a script that runs there alone: standard library only, any Python from 3.10, nothing of swerl imported.

``python3 inventory.py > inventory.json`` on a GPU host without network; ``swerl env bundle --inventory inventory.json`` then leaves out
what is there already. The reading of METADATA and RECORD lives here so that both sides digest a distribution the same way.
"""

import base64
import csv
import hashlib
import json
import os
import platform
import re
import sys
from collections.abc import Iterable
from pathlib import Path

FORMAT = 1

# What an installer writes beside a wheel's own files; it differs between installers and says nothing about the wheel.
INSTALLER_FILES = frozenset({"INSTALLER", "REQUESTED", "RECORD", "direct_url.json", "uv_build.json", "uv_cache.json"})


def normalise(name: str) -> str:
    """A distribution name as indexes and locks spell it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_metadata(path: Path) -> tuple[str, str]:
    """Name as written and version. ValueError where METADATA lacks one."""
    name = version = ""
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            if not line.strip():
                break
            key, _, value = line.partition(":")
            if key.lower() == "name":
                name = value.strip()
            elif key.lower() == "version":
                version = value.strip()
    if not name or not version:
        raise ValueError("METADATA has no name or no version")
    return name, version


def read_record(path: Path) -> list[tuple[str, str, int | None]]:
    """(path, sha256 in hex or empty, size) of each line. ValueError for another hash than sha256."""
    entries = []
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.reader(file):
            if not row:
                continue
            name, digest, size = (*row, "", "")[:3]
            algorithm, _, value = digest.partition("=")
            if digest and algorithm != "sha256":
                raise ValueError(f"RECORD hashes {name} with {algorithm}")
            plain = base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)).hex() if value else ""
            entries.append((name, plain, int(size) if size else None))
    return entries


def record_sha256(info: str, entries: Iterable[tuple[str, str]]) -> str:
    """Digest of a wheel's content as its RECORD tells it: the same for every installer and place of installation.

    Left out: what installers write for themselves, bytecode, and scripts (their first line names the interpreter's path).
    ``info`` is the name of the ``.dist-info`` folder; entries are (path, sha256 in hex).
    """
    lines = sorted(f"{path},{digest}" for path, digest in entries if digest and not _is_local(info, path))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _is_local(info: str, path: str) -> bool:
    own = path.startswith(f"{info}/") and path.rsplit("/", 1)[-1] in INSTALLER_FILES
    return own or path.endswith(".pyc") or re.match(r"(\.\./)+bin/", path) is not None


def inventory(search: Iterable[str]) -> dict:
    """Distributions on the search path, the first of each name as Python would import it, and what cannot be read, named."""
    found: dict[str, dict] = {}
    unreadable = []
    for folder in dict.fromkeys(os.path.realpath(p) for p in search):
        if not os.path.isdir(folder):  # noqa: PTH112
            continue
        for info in sorted(Path(folder).glob("*.dist-info")):
            try:
                name, version = read_metadata(info / "METADATA")
                entries = read_record(info / "RECORD")
            except (OSError, ValueError) as error:
                unreadable.append({"path": str(info), "reason": str(error)})
                continue
            digest = record_sha256(info.name, [(path, sha256) for path, sha256, _ in entries])
            found.setdefault(normalise(name), {"version": version, "record": digest, "site": folder})
    return {
        "format": FORMAT,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "libc": " ".join(platform.libc_ver()),
        "driver": driver_version(),
        "distributions": dict(sorted(found.items())),
        "unreadable": unreadable,
    }


def driver_version(proc: Path = Path("/proc/driver/nvidia/version")) -> str | None:
    """The NVIDIA kernel driver's version, such as ``580.95.05``; None without one."""
    try:
        text = proc.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    match = re.search(r"^NVRM version:.*?\s(\d+\.\d+(?:\.\d+)?)\s", text, re.MULTILINE)
    return match[1] if match else None


if __name__ == "__main__":
    # The folder of this script comes first on sys.path and is no place of installation.
    json.dump(inventory(sys.path[1:]), sys.stdout, indent=1)
    sys.stdout.write("\n")
