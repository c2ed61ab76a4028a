"""Anchors: for each locked wheel, the digest of its RECORD. They close the gap between the lock and the disk.

uv.lock knows the hash of a wheel's archive; an environment knows the hashes in RECORD. Who changes a file and its RECORD together passes
a check of RECORD alone. ``records.json`` maps ``name==version`` to the RECORD digest (``Distribution.record_sha256``) that an install
from hash-checked wheels gave, beside the lock's digest over that package's wheels, so that an anchor of another lock is never used.
A package built from a source distribution has no anchor: its build is not promised to be identical.

The file is written by ``swerl env records --write`` after ``uv sync`` into a fresh environment, and read by ``verify``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import orjson

from swerl.environment.installed import Environment
from swerl.environment.lock import Lock, Package
from swerl.errors import fail

ANCHORS_FILE = Path(__file__).with_name("records.json")


def wheels_digest(package: Package) -> str:
    """One short digest over the hashes of a package's wheels: it changes when the lock names other bytes."""
    return hashlib.sha256("\n".join(sorted(w.sha256 for w in package.wheels)).encode()).hexdigest()[:16]


def load_anchors(path: Path = ANCHORS_FILE) -> Mapping[str, tuple[str, str]]:
    """``name==version`` to (digest over the wheels, RECORD digest)."""
    try:
        return {key: (pair[0], pair[1]) for key, pair in orjson.loads(path.read_bytes()).items()}
    except (OSError, ValueError) as error:
        raise fail("SWERL-E017", f"the anchors cannot be read: {error}", "restore the file from git", str(path)) from error


def anchors_of(env: Environment, lock: Lock) -> dict[str, tuple[str, str]]:
    """Anchors of everything in ``env`` that the lock has as a wheel."""
    found = {}
    for dist in env.distributions:
        package = lock.packages.get((dist.name, dist.version))
        if package and package.wheels:
            found[f"{dist.name}=={dist.version}"] = (wheels_digest(package), dist.record_sha256())
    return found


def merge_anchors(lock: Lock, known: Mapping[str, tuple[str, str]], new: Mapping[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """Anchors for the lock: what is new, and what was known and still belongs to the same wheels. Two digests for one wheel are refused."""
    current = {f"{p.name}=={p.version}": wheels_digest(p) for p in lock.packages.values() if p.wheels}
    kept = {key: pair for key, pair in known.items() if current.get(key) == pair[0]}
    for key, pair in new.items():
        if key in kept and kept[key] != pair:
            raise fail(
                "SWERL-E013",
                f"{key} is installed with other files than its anchor says",
                "install it anew from the lock; if the anchor itself is wrong, delete its line and write it from a fresh environment",
                key,
            )
    return dict(sorted({**kept, **new}.items()))


def write_anchors(anchors: Mapping[str, tuple[str, str]], path: Path = ANCHORS_FILE) -> None:
    """One line per package, sorted: a change of the lock shows as the lines it touches."""
    lines = [f"  {orjson.dumps(key).decode()}: {orjson.dumps(list(pair)).decode()}" for key, pair in sorted(anchors.items())]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def missing_anchors(lock: Lock, anchors: Mapping[str, tuple[str, str]], packages: Iterable[Package]) -> list[str]:
    """Packages with a wheel in the lock but without a current anchor."""
    return [
        f"{p.name}=={p.version}" for p in packages if p.wheels and anchors.get(f"{p.name}=={p.version}", ("", ""))[0] != wheels_digest(p)
    ]
