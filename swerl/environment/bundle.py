"""A locked environment as an archive for a host without network: less what that host has, in parts of a given size, with an installer.

``plan(...)`` decides, purely, which distributions and files go in and why the others do not. ``write(plan, out)`` compares every file with
its RECORD before the first is packed, then packs them: members sorted, times and owners fixed, files that occur twice stored once. The
same environment and inventory give the same parts. Beside the parts lie ``install.py`` (standard library only) and ``bundle.json``, which
names each part's sha256 and the digest of the list of files inside.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tarfile
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from swerl.environment import disputes, installer
from swerl.environment.blocks import BlockWriter
from swerl.environment.elf import read_dynamic
from swerl.environment.installed import Distribution, Environment
from swerl.environment.inventory import INSTALLER_FILES
from swerl.environment.lock import Lock
from swerl.errors import fail
from swerl.record.hashing import files_sha256

TRIMS = Path(__file__).with_name("trim.toml")


@dataclass(frozen=True, slots=True)
class Trim:
    """What may be left out although the lock has it."""

    packages: frozenset[str] = frozenset()
    files: tuple[str, ...] = ()

    def drops(self, path: str) -> bool:
        return any(fnmatchcase(path, pattern) for pattern in self.files)


@dataclass(frozen=True, slots=True)
class Item:
    """One file: where it lies here, where it goes in the bundle, and the sha256 that it must have."""

    source: Path
    target: str
    sha256: str
    executable: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """``kept``: the target's own distributions, their version there and whether their bytes are the lock's; ``dropped``: the trimmed."""

    items: tuple[Item, ...]
    environments: Mapping[str, Mapping[str, str]]
    kept: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    host_sites: tuple[str, ...] = ()
    lock_sha256: str = ""
    extra: tuple[str, ...] = ()


def read_trim(name: str, path: Path = TRIMS) -> Trim:
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    if name not in table:
        raise fail("SWERL-E040", f"there is no trim {name!r}", f"choose from {', '.join(table)}", str(path))
    return Trim(frozenset(table[name]["packages"]), tuple(table[name]["files"]))


def read_inventory(path: Path) -> dict[str, Any]:
    try:
        found = orjson.loads(path.read_bytes())
        if found["format"] != 1 or not isinstance(found["distributions"], dict):
            raise ValueError("another format")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise fail("SWERL-E041", f"this is no inventory: {error}", "make one there: `swerl env inventory --script`", str(path)) from error
    if found["python"].split(".")[:2] != ["3", "12"]:
        raise fail("SWERL-E041", f"that host's Python is {found['python']}, the lock is for 3.12", "name its Python 3.12", str(path))
    return found


def plan(
    lock: Lock,
    environments: Mapping[str, tuple[Environment, Iterable[str]]],
    inventory: Mapping[str, Any] | None = None,
    trim: Trim | None = None,
    extras: Mapping[str, Path] | None = None,
) -> Plan:
    """``environments`` maps a name (``train``, ``trials``) to an installed environment and its extras. The inventory counts for ``train``:
    other environments are complete in themselves. ``extras`` maps a name to a file or folder that goes along (a model, tasks)."""
    trim = trim or Trim()
    there = inventory["distributions"] if inventory else {}
    items: list[Item] = []
    kept: dict[str, dict[str, Any]] = {}
    dropped: list[str] = []
    versions: dict[str, dict[str, str]] = {}
    for name, (env, wanted) in sorted(environments.items()):
        disputes.refuse(env, lock.left_out)
        have = {d.name: d for d in env.distributions}
        versions[name] = {}
        for package, locked in lock.closure(wanted).items():
            dist = have.get(package)
            if dist is None or dist.version != locked.version:
                found = dist.version if dist else "absent"
                raise fail(
                    "SWERL-E042", f"{package} is {found} in {env.root}, the lock says {locked.version}", "run `swerl env verify`", package
                )
            versions[name][package] = dist.version
            host = there.get(package) if name == "train" else None
            if name == "train" and package in trim.packages:
                dropped.append(f"{name}: {package} {dist.version}")
            elif host is not None and _public(host["version"]) == _public(dist.version):
                kept[package] = {"version": host["version"], "same_bytes": host["record"] == dist.record_sha256()}
            else:
                items += _files(env, dist, name, trim, lock.left_out, dropped)
    _refuse_missing_libraries(items, dropped)
    for name, path in sorted((extras or {}).items()):
        items += _tree(path, name)
    sites = tuple(dict.fromkeys(there[package]["site"] for package in sorted(kept)))
    unique = {item.target: item for item in items}
    return Plan(
        tuple(unique[target] for target in sorted(unique)), versions, kept, tuple(dropped), sites, lock.sha256, tuple(sorted(extras or {}))
    )  # fmt: skip


def write(plan: Plan, out: Path, part_bytes: int, preset: int = 6) -> dict[str, Any]:
    """Write the parts, the installer and the manifest into ``out``, which must be empty or absent. Returns the manifest."""
    if out.exists() and any(out.iterdir()):
        raise fail("SWERL-E043", f"{out} is not empty", "name another folder, or empty it", str(out))
    _refuse_altered(plan.items)
    out.mkdir(parents=True, exist_ok=True)
    listing = orjson.dumps({i.target: [i.sha256, int(i.executable)] for i in plan.items}, option=orjson.OPT_SORT_KEYS)
    parts = _Parts(out, part_bytes)
    with BlockWriter(parts, preset) as packed, tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        _add(archive, installer.LISTING, io.BytesIO(listing), len(listing))
        for target, source in _members(sorted(plan.items, key=_neighbours)):
            if isinstance(source, str):
                member = _member(target, 0)
                member.type, member.linkname = tarfile.LNKTYPE, source
                archive.addfile(member)
            else:
                _pack(archive, target, source)
    parts.close()
    manifest = {
        "format": installer.FORMAT,
        "python": "3.12",
        "lock_sha256": plan.lock_sha256,
        "listing_sha256": hashlib.sha256(listing).hexdigest(),
        "files": len(plan.items),
        "bytes": sum(i.source.stat().st_size for i in plan.items),
        "environments": {name: dict(versions) for name, versions in plan.environments.items()},
        "host_sites": list(plan.host_sites),
        "kept": {name: dict(entry) for name, entry in plan.kept.items()},
        "dropped": list(plan.dropped),
        "extra": list(plan.extra),
        "parts": parts.written,
    }
    (out / installer.MANIFEST).write_bytes(orjson.dumps(manifest, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    shutil.copyfile(installer.__file__, out / "install.py")
    return manifest


def _public(version: str) -> str:
    """Without the local part: an index of PyTorch's own calls the same release 2.11.0+cu130."""
    return version.partition("+")[0]


def _files(env: Environment, dist: Distribution, name: str, trim: Trim, left_out: Collection[str], dropped: list[str]) -> Iterator[Item]:
    prefix = os.path.relpath(env.site_packages, env.root)
    for entry in dist.entries:
        path = os.path.normpath(os.path.join(prefix, entry.path))  # noqa: PTH118 - keeps ".." apart from the file system
        own = entry.path.startswith(f"{dist.info}/") and entry.path.rsplit("/", 1)[-1] in INSTALLER_FILES
        if path.startswith("bin/") or entry.path.endswith(".pyc") or (own and not entry.path.endswith("/RECORD")):
            continue  # scripts name this host's Python; modules are run with -m
        if os.path.normpath(entry.path) in left_out:
            continue
        if trim.drops(entry.path):
            dropped.append(f"{name}: {entry.path}")
            continue
        source = env.root / path
        digest = entry.sha256 or hashlib.sha256(source.read_bytes()).hexdigest()
        yield Item(source, f"{name}/{path}", digest, os.access(source, os.X_OK))


def _refuse_missing_libraries(items: Iterable[Item], dropped: Iterable[str]) -> None:
    """A library that a trim drops and a kept file of the same environment links would be missed at the first import there."""
    gone = {(entry.partition(": ")[0], entry.rpartition("/")[2]) for entry in dropped if ".so" in entry}
    kept = [item for item in items if ".so" in item.source.name]
    gone -= {(item.target.partition("/")[0], item.source.name) for item in kept}
    for item in kept if gone else ():
        environment = item.target.partition("/")[0]
        dynamic = read_dynamic(item.source)
        for name in dynamic.needed if dynamic else ():
            if (environment, name) in gone:
                remedy = "keep that file, or drop both, in swerl/environment/trim.toml"
                raise fail("SWERL-E046", f"{item.target} links {name}, which the trim drops", remedy, item.target)


def _refuse_altered(items: Sequence[Item]) -> None:
    """Packing takes minutes, hashing seconds: SWERL-E044 comes first, once, with every file that is not what it must be."""
    digests = files_sha256([item.source for item in items])
    altered = [str(item.source) for item, digest in zip(items, digests, strict=True) if digest != item.sha256]
    if altered:
        raise fail("SWERL-E044", f"{disputes.some(altered)} are missing or not what RECORD says", "run `swerl env verify`", altered[0])


def _tree(path: Path, name: str) -> Iterator[Item]:
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    for file in files:
        relative = file.name if file == path else str(file.relative_to(path))
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        yield Item(file, f"{name}/{relative}", digest, os.access(file, os.X_OK))


def _members(items: Iterable[Item]) -> Iterator[tuple[str, Item | str]]:
    """(target, item) to be stored, or (target, earlier target) where the same bytes went in before. Empty files are stored: links to them
    would cost as much."""
    first: dict[tuple[str, bool], str] = {}
    for item in items:
        key = (item.sha256, item.executable)
        if key in first:
            yield item.target, first[key]
        else:
            first[key] = item.target
            yield item.target, item


def _neighbours(item: Item) -> tuple[str, str, str]:
    """Like beside like, and the files of one name together: what repeats lies within one block and one dictionary."""
    path = Path(item.target)
    return "".join(path.suffixes[:1]), path.name, item.target


def _pack(archive: tarfile.TarFile, target: str, item: Item) -> None:
    with item.source.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != item.sha256:
            raise fail("SWERL-E044", f"{item.source} changed while it was packed", "pack it again", str(item.source))
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        _add(archive, target, file, size, item.executable)


def _add(archive: tarfile.TarFile, name: str, file: BinaryIO, size: int, executable: bool = False) -> None:
    archive.addfile(_member(name, size, executable), file)


def _member(name: str, size: int, executable: bool = False) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = size, 0o755 if executable else 0o644, 0
    return member


class _Parts(io.RawIOBase):
    """A file that is written in pieces of at most ``limit`` bytes, ``swerl-bundle.000`` and on."""

    def __init__(self, folder: Path, limit: int):
        self.folder, self.limit, self.written = folder, limit, []
        self._open()

    def _open(self) -> None:
        self._name = f"{installer.PART}{len(self.written):03d}"
        self._file, self._sha256, self._size = (self.folder / self._name).open("wb"), hashlib.sha256(), 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view):
            if self._size == self.limit:
                self._finish()
                self._open()
            piece = view[done : done + self.limit - self._size]
            self._file.write(piece)
            self._sha256.update(piece)
            self._size += len(piece)
            done += len(piece)
        return done

    def _finish(self) -> None:
        self._file.close()
        self.written.append({"name": self._name, "bytes": self._size, "sha256": self._sha256.hexdigest()})

    def close(self) -> None:
        if not self.closed:
            self._finish()
        super().close()
