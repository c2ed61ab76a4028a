"""Is an environment what the lock says? Every difference is a problem with a name; nothing is repaired.

``verify(env, lock, extras)`` compares, without importing anything from the environment:
versions (missing, different, surplus distributions), each file against the sha256 in RECORD, each RECORD against its anchor
(``records.json``), files that no distribution owns, code that runs at start, stale bytecode, Python, CUDA and the driver.
A file that two distributions record differently is refused where pyproject.toml does not decide it (``disputes``).
An environment in the Nix store has its ELF files completed, so RECORD does not fit it, and its paths are digests already: there, versions
and platform are compared and the files are left to Nix.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from swerl.environment import bytecode, disputes, platforms, pth
from swerl.environment.disputes import some
from swerl.environment.installed import Distribution, Environment, walk_files
from swerl.environment.lock import Lock, Package
from swerl.environment.records import wheels_digest
from swerl.errors import Problem
from swerl.record.hashing import files_sha256

_REINSTALL = "install it anew: `make setup`"


@dataclass(frozen=True, slots=True)
class Report:
    """What was compared, and every difference. ``anchored`` counts packages whose RECORD has an anchor of the lock's wheels."""

    extras: tuple[str, ...]
    lock_sha256: str
    python: str
    facts: platforms.Facts
    packages: int
    anchored: int
    files: int
    total_bytes: int
    elapsed_s: float
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        return not any(p.severity == "fatal" for p in self.problems)

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "ok": self.ok, "problems": [p.as_dict() for p in self.problems]}


def installed_extras(env: Environment, lock: Lock) -> tuple[str, ...]:
    """The extras an environment was made with: those whose own requirements are all there in the version the lock gives them."""
    have = {d.name: d.version for d in env.distributions}
    found = []
    for extra in lock.extras:
        closure = lock.closure([extra])
        if all(have.get(name) == closure[name].version for name in lock.direct(extra)):
            found.append(extra)
    return tuple(found)


def verify(
    env: Environment,
    lock: Lock,
    extras: Iterable[str],
    anchors: Mapping[str, tuple[str, str]],
    *,
    jobs: int | None = None,
) -> Report:
    started = time.monotonic()
    extras = tuple(extras)
    expected = lock.closure(extras)
    facts = platforms.read_facts(env.site_packages)
    problems = [*_versions(env, lock, expected), *_at_start(env)]
    files = total_bytes = 0
    if env.in_store:
        remedy = f"let Nix compare the files: `nix store verify --recursive --no-trust {env.root}`"
        problems.append(Problem("SWERL-E027", "files were not compared: the Nix store keeps them", remedy, str(env.root), severity="note"))
    else:
        problems += _records(_owned(env, lock, expected), expected, anchors)
        problems += disputes.problems(env, lock.left_out)
        files, total_bytes, altered = _contents(env, lock.left_out, jobs)
        problems += altered
        problems += _unowned(env)
    problems += _platform(env, extras, facts)
    anchored = sum(1 for d in env.distributions if d.name in expected and _anchor(d, expected[d.name], anchors))
    return Report(
        extras, lock.sha256, env.python, facts,
        len(expected), anchored, files, total_bytes, round(time.monotonic() - started, 2), tuple(problems),
    )  # fmt: skip


def verify_records(env: Environment, lock: Lock, extras: Iterable[str], anchors: Mapping[str, tuple[str, str]]) -> list[Problem]:
    """The part that reads no file of a package: versions, each RECORD with its anchor and with the others, code that runs at start."""
    expected = lock.closure(extras)
    records = [] if env.in_store else [*_records(_owned(env, lock, expected), expected, anchors), *disputes.problems(env, lock.left_out)]
    return [*_versions(env, lock, expected), *_at_start(env), *records]


def _owned(env: Environment, lock: Lock, expected: Mapping[str, Package]) -> list[Distribution]:
    return [d for d in env.distributions if d.name in expected or d.name == lock.project]


def _versions(env: Environment, lock: Lock, expected: Mapping[str, Package]) -> Iterator[Problem]:
    have: dict[str, list[Distribution]] = defaultdict(list)
    for dist in env.distributions:
        have[dist.name].append(dist)
    for name, dists in sorted(have.items()):
        if len(dists) > 1:
            versions = ", ".join(d.version for d in dists)
            yield Problem("SWERL-E004", f"{name} is installed more than once: {versions}", _REINSTALL, str(env.site_packages))
    for name, package in expected.items():
        if name not in have:
            yield Problem("SWERL-E003", f"{name} {package.version} is in the lock and not installed", _REINSTALL, str(env.root))
        elif have[name][0].version != package.version:
            found = have[name][0]
            message = f"{name} is {found.version}, the lock says {package.version}"
            yield Problem("SWERL-E004", message, _REINSTALL, str(env.site_packages / found.info))
    for name in sorted(have.keys() - expected.keys() - {lock.project}):
        found = have[name][0]
        remedy = "remove it, or name the extra that brings it with --extra"
        yield Problem("SWERL-E005", f"{name} {found.version} is installed and not in the lock", remedy, str(env.site_packages / found.info))


def _anchor(dist: Distribution, package: Package, anchors: Mapping[str, tuple[str, str]]) -> str | None:
    wheels, record = anchors.get(f"{dist.name}=={dist.version}", ("", ""))
    return record if package.wheels and wheels == wheels_digest(package) else None


def _records(owned: Iterable[Distribution], expected: Mapping[str, Package], anchors: Mapping[str, tuple[str, str]]) -> Iterator[Problem]:
    for dist in owned:
        package = expected.get(dist.name)
        if package is None or dist.version != package.version:
            continue
        anchor = _anchor(dist, package, anchors)
        if anchor and anchor != dist.record_sha256():
            message = f"the RECORD of {dist.name} {dist.version} is not the one of the locked wheel"
            yield Problem("SWERL-E013", message, _REINSTALL, dist.info)
        if package.wheels and not anchor:
            message = f"{dist.name} {dist.version} has no anchor: its files are checked against its own RECORD only"
            yield Problem("SWERL-E018", message, "run `swerl env records --write` in a fresh environment", dist.info, severity="note")


def _contents(env: Environment, left_out: Collection[str], jobs: int | None) -> tuple[int, int, list[Problem]]:
    """Hash every recorded file once; say per distribution what is altered, what is gone."""
    claims = {path: owners for path, owners in disputes.claims(env).items() if path not in left_out}
    paths = sorted(claims)
    digests = files_sha256([env.site_packages / p for p in paths], jobs)
    altered: dict[str, list[str]] = defaultdict(list)
    gone: dict[str, list[str]] = defaultdict(list)
    total_bytes = 0
    for path, digest in zip(paths, digests, strict=True):
        if digest is None:
            gone[claims[path][0][0].info].append(path)
            continue
        total_bytes += (env.site_packages / path).stat().st_size
        if all(digest != sha256 for _, sha256 in claims[path]):
            altered[claims[path][0][0].info].append(path)
    problems = [
        Problem("SWERL-E006", f"{some(names)} differ from RECORD", _REINSTALL, str(env.site_packages / info))
        for info, names in sorted(altered.items())
    ] + [
        Problem("SWERL-E007", f"{some(names)} of RECORD are missing", _REINSTALL, str(env.site_packages / info))
        for info, names in sorted(gone.items())
    ]  # fmt: skip
    return len(paths), total_bytes, problems


def _unowned(env: Environment) -> Iterator[Problem]:
    recorded = {os.path.normpath(e.path) for d in env.distributions for e in d.entries}
    strays, stale = [], []
    for path in walk_files(env.site_packages):
        if path in recorded:
            continue
        if path.endswith(".pyc") and path.split("/")[-2:-1] == ["__pycache__"]:
            if bytecode.stale(env.site_packages / path):
                stale.append(path)
        else:
            strays.append(path)
    if strays:
        remedy = "remove what no package brought, or install the environment anew"
        yield Problem("SWERL-E008", f"{some(sorted(strays))} belong to no distribution", remedy, str(env.site_packages))
    if stale:
        remedy = "compile anew: `make setup`"
        yield Problem("SWERL-E014", f"{some(sorted(stale))} are not the bytecode of their source", remedy, str(env.site_packages))


def _at_start(env: Environment) -> Iterator[Problem]:
    remedy = "remove the package that brought it, or allow it in swerl/environment/pth.py"
    for path, reason in pth.refused(env.site_packages):
        yield Problem("SWERL-E009", f"{path.name} {reason}", remedy, str(path))


def _platform(env: Environment, extras: tuple[str, ...], facts: platforms.Facts) -> Iterator[Problem]:
    if env.python.split(".")[:2] != ["3", "12"]:
        yield Problem("SWERL-E010", f"Python is {env.python}, the lock is for 3.12", "make the environment with Python 3.12", str(env.root))
    torch = env.site_packages / "torch"
    if torch.is_dir() and facts.torch_cuda != platforms.CUDA:
        message = f"torch is built for CUDA {facts.torch_cuda}, the lock is for {platforms.CUDA}"
        yield Problem("SWERL-E011", message, _REINSTALL, str(torch))
    if "gpu" in extras:
        yield from driver_problems(facts)


def driver_problems(facts: platforms.Facts) -> Iterator[Problem]:
    """What keeps the locked CUDA from running here. A host without a driver is only warned about: it may be where images are built."""
    where = "/proc/driver/nvidia/version"
    if facts.driver is None:
        yield Problem("SWERL-E012", "no NVIDIA driver here", "run this on the GPU host too", where, severity="warning")
    elif int(facts.driver.split(".")[0]) < platforms.MINIMUM_DRIVER:
        message = f"the driver is {facts.driver}; CUDA {platforms.CUDA} needs branch {platforms.MINIMUM_DRIVER} or newer"
        yield Problem("SWERL-E012", message, "update the driver of the host", where)
    elif facts.driver_cuda is None:
        yield Problem("SWERL-E012", "there is a driver and no libcuda.so.1", "start the container with the NVIDIA runtime", "libcuda.so.1")
