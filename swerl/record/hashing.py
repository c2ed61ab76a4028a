"""Hashing many files at once: threads, since hashlib lets go of the interpreter lock on anything larger than 2 KiB."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_CHUNK = 256


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_sha256(paths: Sequence[Path], jobs: int | None = None) -> list[str | None]:
    """The sha256 of each file in hex, in the order given; None where there is no such file."""
    chunks = [paths[i : i + _CHUNK] for i in range(0, len(paths), _CHUNK)]
    with ThreadPoolExecutor(max_workers=jobs or min(16, (os.cpu_count() or 2) * 2)) as pool:
        return [digest for digests in pool.map(_digests, chunks) for digest in digests]


def _digests(paths: Sequence[Path]) -> list[str | None]:
    return [_digest(path) for path in paths]


def _digest(path: Path) -> str | None:
    try:
        return file_sha256(path)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
