"""What can be said of an environment in a second or two: its packages by RECORD, and when its files were last compared.

``standing`` reads every RECORD (not the files), compares versions and anchors with the lock, and digests the whole into one value: equal
digests mean equal recorded contents. A full comparison is ``verify``, half a minute; ``note`` leaves its result in the environment, and
``standing`` repeats it as long as it speaks of the same packages. This is what a run's manifest holds of its environments.
"""

from __future__ import annotations

import hashlib
import os
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson

from swerl.environment.installed import Environment, read_environment
from swerl.environment.lock import Lock, load_lock
from swerl.environment.records import load_anchors
from swerl.environment.verify import Report, installed_extras, verify_records
from swerl.errors import SwerlError

NOTE = ".swerl-verified.json"


def packages_sha256(env: Environment, project: str) -> str:
    """One digest over name, version and recorded content of every package but the project itself, whose files are the checkout's."""
    lines = sorted(f"{d.name}=={d.version} {d.record_sha256()}" for d in env.distributions if d.name != project)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def standing(root: Path, lock: Lock) -> dict[str, Any]:
    """Plain data; an environment that cannot be read has ``problems`` and nothing else."""
    sites = [(str(p), p.stat().st_mtime_ns) for p in sorted(root.glob("lib/python3.*/site-packages"))]
    return _standing(root, lock.path, lock.sha256, tuple(sites))


@lru_cache(maxsize=16)
def _standing(root: Path, lock_path: Path, lock_sha256: str, sites: tuple[tuple[str, int], ...]) -> dict[str, Any]:
    """The last two arguments say when an earlier answer no longer holds."""
    lock = load_lock(lock_path)
    try:
        env = read_environment(root)
    except SwerlError as error:
        return {"problems": [str(p) for p in error.problems]}
    extras = installed_extras(env, lock)
    digest = packages_sha256(env, lock.project)
    problems = verify_records(env, lock, extras, load_anchors())
    return {
        "python": env.python,
        "extras": list(extras),
        "packages": len(env.distributions),
        "packages_sha256": digest,
        "problems": [str(p) for p in problems if p.severity == "fatal"],
        "verified": _noted(root, digest),
    }


def note(env: Environment, lock: Lock, report: Report) -> bool:
    """Leave the result of a full comparison in the environment; False where nobody may write there (an image, the Nix store).

    ``SOURCE_DATE_EPOCH`` (seconds) stands for the time while an image is built, which is to have the same bytes tomorrow."""
    text = {
        "time": float(os.environ.get("SOURCE_DATE_EPOCH") or time.time()),
        "ok": report.ok,
        "lock_sha256": report.lock_sha256,
        "packages_sha256": packages_sha256(env, lock.project),
        "files": report.files,
        "bytes": report.total_bytes,
    }
    try:
        (env.root / NOTE).write_bytes(orjson.dumps(text) + b"\n")
    except OSError:
        return False
    return True


def _noted(root: Path, digest: str) -> dict[str, Any] | None:
    try:
        found = orjson.loads((root / NOTE).read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return None
    return found if found.get("packages_sha256") == digest else None
