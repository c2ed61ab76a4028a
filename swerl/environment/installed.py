"""What is installed in an environment, read from its files alone: no import, no subprocess, so an env is read from outside it.

``read_environment(root)`` takes a virtual environment (or any folder that holds ``lib/python3.*/site-packages``) and returns its
distributions with their RECORD entries. Paths in entries are relative to site-packages, as RECORD has them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from swerl.environment.inventory import normalise, read_metadata, read_record, record_sha256
from swerl.errors import fail


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a RECORD. ``sha256`` is hex, or empty where the installer gives none (RECORD itself, bytecode)."""

    path: str
    sha256: str
    size_bytes: int | None


@dataclass(frozen=True, slots=True)
class Distribution:
    name: str
    version: str
    info: str
    """Folder name of the ``.dist-info``."""
    entries: tuple[Entry, ...]

    def record_sha256(self) -> str:
        """Digest of the wheel's content as recorded, see ``inventory.record_sha256``."""
        return record_sha256(self.info, ((e.path, e.sha256) for e in self.entries))


@dataclass(frozen=True, slots=True)
class Environment:
    root: Path
    site_packages: Path
    python: str
    """Full version, such as ``3.12.1``; ``3.12`` where only the folder name tells."""
    distributions: tuple[Distribution, ...]

    @property
    def in_store(self) -> bool:
        """Whether this is a derivation of the Nix store, or a link to one."""
        return str(self.root.resolve()).startswith("/nix/store/")


def read_environment(root: Path) -> Environment:
    sites = sorted(root.glob("lib/python3.*/site-packages"))
    if len(sites) != 1:
        found = f"{len(sites)} folders lib/python3.*/site-packages" if sites else "no lib/python3.*/site-packages"
        raise fail("SWERL-E002", f"this is no environment: {found}", "run `make setup`, or name the environment with --env", str(root))
    site = sites[0]
    infos = sorted(p for p in site.iterdir() if p.name.endswith(".dist-info"))
    return Environment(root, site, _python_version(root, site), tuple(read_distribution(info) for info in infos))


def read_distribution(info: Path) -> Distribution:
    """Name and version from METADATA, files from RECORD. SWERL-E002 names the folder when either is missing or broken."""
    try:
        name, version = read_metadata(info / "METADATA")
        entries = tuple(Entry(*row) for row in read_record(info / "RECORD"))
    except (OSError, ValueError) as error:
        raise fail("SWERL-E002", f"{info.name} cannot be read: {error}", "install the environment anew: `make setup`", str(info)) from error
    return Distribution(normalise(name), version, info.name, entries)


def walk_files(folder: Path) -> Iterator[str]:
    """Files and links below ``folder`` as relative paths, in no order that matters."""
    stack = [("", str(folder))]
    while stack:
        prefix, path = stack.pop()
        with os.scandir(path) as listing:
            for item in listing:
                if item.is_dir(follow_symlinks=False):
                    stack.append((f"{prefix}{item.name}/", item.path))
                else:
                    yield prefix + item.name


def _python_version(root: Path, site: Path) -> str:
    config = root / "pyvenv.cfg"
    if config.is_file():
        for line in config.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition("=")
            if key.strip() in ("version_info", "version"):
                return value.strip()
    return site.parent.name.removeprefix("python")
