"""uv.lock, read: packages, artifacts and the closure of an environment.

``load_lock(path)`` parses the file and raises SWERL-E001 when it cannot. ``Lock.closure(extras)`` is the set of packages that
``uv sync --frozen --extra ...`` installs on linux x86_64 with CPython 3.12; extras that the lock declares as conflicting are refused.
Only markers over ``extra`` and the fixed platform below are understood; any other marker raises, so that a new kind of marker in the
lock is met here and not as a silently wrong environment.
"""

from __future__ import annotations

import ast
import hashlib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from swerl.errors import fail

# The platform that the lock is limited to (`tool.uv.environments`, `requires-python`).
PLATFORM = {
    "sys_platform": "linux",
    "platform_system": "Linux",
    "platform_machine": "x86_64",
    "os_name": "posix",
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
}


@dataclass(frozen=True, slots=True)
class Artifact:
    """One file of the lock: a wheel or a source distribution."""

    url: str
    sha256: str
    size_bytes: int

    @property
    def filename(self) -> str:
        return unquote(urlsplit(self.url).path.rsplit("/", 1)[-1])


@dataclass(frozen=True, slots=True)
class Package:
    """One locked package. The project itself has neither wheels nor sdist."""

    name: str
    version: str
    wheels: tuple[Artifact, ...]
    sdist: Artifact | None
    index: str | None

    @property
    def artifacts(self) -> tuple[Artifact, ...]:
        return (*self.wheels, self.sdist) if self.sdist else self.wheels


@dataclass(frozen=True)
class Lock:
    path: Path
    raw: Mapping[str, Any]
    sha256: str

    @cached_property
    def packages(self) -> Mapping[tuple[str, str], Package]:
        return {(p["name"], p.get("version", "")): _package(p) for p in self.raw["package"]}

    @cached_property
    def project(self) -> str:
        """The name of the package that the lock belongs to."""
        return next(p["name"] for p in self.raw["package"] if p["source"].get("editable") == "." or p["source"].get("virtual") == ".")

    @cached_property
    def left_out(self) -> frozenset[str]:
        """Files below site-packages that no environment has (``tool.swerl.left-out`` of the project; scripts/leave_out.py removes them)."""
        path = self.path.with_name("pyproject.toml")
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        except (OSError, ValueError) as error:
            raise fail("SWERL-E001", f"pyproject.toml cannot be read: {error}", "restore it from git", str(path)) from error
        return frozenset(table.get("tool", {}).get("swerl", {}).get("left-out", ()))

    @cached_property
    def conflicts(self) -> tuple[frozenset[str], ...]:
        """Sets of extras of which at most one may be chosen."""
        return tuple(frozenset(c["extra"] for c in group if "extra" in c) for group in self.raw.get("conflicts", ()))

    @cached_property
    def extras(self) -> tuple[str, ...]:
        return tuple(self._project_entry.get("optional-dependencies", {}))

    def direct(self, extra: str) -> tuple[str, ...]:
        """Names that the project asks for itself under this extra."""
        return tuple(d["name"] for d in self._project_entry["optional-dependencies"][extra])

    def closure(self, extras: Iterable[str]) -> dict[str, Package]:
        """Packages by name of the environment with these extras, the project itself left out."""
        chosen = frozenset(extras)
        if unknown := sorted(chosen - set(self.extras)):
            raise fail("SWERL-E015", f"the lock has no extra {unknown[0]!r}", f"choose from {', '.join(self.extras)}", str(self.path))
        for group in self.conflicts:
            if len(chosen & group) > 1:
                both = ", ".join(sorted(chosen & group))
                raise fail("SWERL-E016", f"extras {both} exclude each other", "name one of them", str(self.path))
        active = frozenset(f"extra-{len(self.project)}-{self.project}-{extra}" for extra in chosen)
        found: dict[str, Package] = {}
        done: set[tuple[str, str, frozenset[str]]] = set()
        todo: list[tuple[Mapping[str, Any], frozenset[str]]] = [(self._project_entry, chosen)]
        while todo:
            entry, wanted = todo.pop()
            key = (entry["name"], entry.get("version", ""), wanted)
            if key in done:
                continue
            done.add(key)
            if entry is not self._project_entry:
                found[entry["name"]] = self.packages[entry["name"], entry.get("version", "")]
            needs = list(entry.get("dependencies", ()))
            for extra in wanted:
                needs += entry.get("optional-dependencies", {}).get(extra, ())
            for need in needs:
                if "marker" not in need or marker_holds(need["marker"], active):
                    todo.append((self._entry(need), frozenset(need.get("extra", ()))))
        return dict(sorted(found.items()))

    @cached_property
    def _project_entry(self) -> Mapping[str, Any]:
        return self._by_name[self.project][0]

    @cached_property
    def _by_name(self) -> Mapping[str, list[Mapping[str, Any]]]:
        names: dict[str, list[Mapping[str, Any]]] = {}
        for entry in self.raw["package"]:
            names.setdefault(entry["name"], []).append(entry)
        return names

    def _entry(self, need: Mapping[str, Any]) -> Mapping[str, Any]:
        candidates = [e for e in self._by_name[need["name"]] if need.get("version", e.get("version")) == e.get("version")]
        if len(candidates) != 1:
            raise fail("SWERL-E001", f"{need['name']} is ambiguous in the lock", "write the lock anew with `uv lock`", str(self.path))
        return candidates[0]


def load_lock(path: Path) -> Lock:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise fail("SWERL-E001", f"the lock cannot be read: {error.strerror}", "run in the project or pass --lock", str(path)) from error
    try:
        raw = tomllib.loads(data.decode())
    except ValueError as error:
        raise fail("SWERL-E001", f"the lock is no valid TOML: {error}", "restore it from git or run `uv lock`", str(path)) from error
    if raw.get("version") != 1:
        raise fail("SWERL-E001", f"lock format {raw.get('version')} is unknown", "use the uv that pyproject.toml asks for", str(path))
    return Lock(path, raw, hashlib.sha256(data).hexdigest())


def find_lock(start: Path) -> Path:
    """The nearest uv.lock upwards of ``start``; where there is none, as in an image, that of the project this package is run from."""
    for folder in (start, *start.parents, Path(__file__).resolve().parents[2]):
        if (folder / "uv.lock").is_file():
            return folder / "uv.lock"
    raise fail(
        "SWERL-E001", "no uv.lock here, above, or beside this installation of swerl", "run in the project or pass --lock", str(start)
    )


def marker_holds(marker: str, active_extras: frozenset[str]) -> bool:
    """Whether a marker holds on the locked platform. Markers are read as Python expressions, which their grammar is a subset of."""
    return _holds(ast.parse(marker, mode="eval").body, active_extras, marker)


def _holds(node: ast.expr, active: frozenset[str], marker: str) -> bool:
    match node:
        case ast.BoolOp(op=ast.And(), values=values):
            return all(_holds(v, active, marker) for v in values)
        case ast.BoolOp(op=ast.Or(), values=values):
            return any(_holds(v, active, marker) for v in values)
        case ast.Compare(left=ast.Name(id=name), ops=[ast.Eq() | ast.NotEq() as op], comparators=[ast.Constant(value=str(value))]):
            if name == "extra":
                equal = value in active
            elif name in PLATFORM:
                equal = PLATFORM[name] == value
            else:
                raise fail("SWERL-E001", f"marker variable {name!r} is unknown", "extend swerl.environment.lock", marker)
            return equal == isinstance(op, ast.Eq)
        case _:
            raise fail("SWERL-E001", "this kind of marker is not understood", "extend swerl.environment.lock", marker)


def _package(entry: Mapping[str, Any]) -> Package:
    sdist = entry.get("sdist")
    return Package(
        name=entry["name"],
        version=entry.get("version", ""),
        wheels=tuple(_artifact(w) for w in entry.get("wheels", ())),
        sdist=_artifact(sdist) if sdist else None,
        index=entry["source"].get("registry"),
    )


def _artifact(entry: Mapping[str, Any]) -> Artifact:
    algorithm, _, digest = entry.get("hash", "").partition(":")
    return Artifact(url=entry.get("url", ""), sha256=digest if algorithm == "sha256" else "", size_bytes=entry.get("size", 0))
