"""The runtimes of coding agents: installed once, by hash, into a directory that sandboxes see read-only.

``containers/agents.json`` names them. An `Archive` is one file of a registry, pinned by sha512; a `PythonAgent` is a set of packages, every
file pinned by sha256 in ``containers/agents/NAME.txt`` (`agents_lock` writes it), on a copy of this machine's Python (`agents_python`).

``install(table, out, ...)`` fills ``out`` with ``NAME/`` per agent, ``bin/`` with a link per program, ``SHA256SUMS`` over every file and
``manifest.json``. Other bytes than the table's are refused (SWERL-E033). Everything inside is readable for every user and meant to be seen
at `MOUNT`, where the links and interpreters of Python agents point.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import orjson

from swerl.errors import fail
from swerl.facts.sandbox import MOUNT
from swerl.record.hashing import file_sha256

_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class Archive:
    """``strip`` leading folders go, what is below ``leave`` stays out, ``links`` are made (name: target, both inside the agent)."""

    name: str
    version: str
    url: str
    sha512: str
    strip: int = 0
    links: Mapping[str, str] = field(default_factory=dict)
    leave: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class PythonAgent:
    """``scripts`` are its programs that belong on the PATH."""

    name: str
    version: str
    requires: Sequence[str]
    scripts: Sequence[str] = ()


Agent = Archive | PythonAgent
Read = Callable[[str], bytes]
InstallPython = Callable[[Sequence[PythonAgent], Path], None]


def read_agents(path: Path) -> list[Agent]:
    try:
        table = sorted(orjson.loads(path.read_bytes()).items())
        return [(PythonAgent if "requires" in entry else Archive)(name, **entry) for name, entry in table]
    except (OSError, ValueError, TypeError) as error:
        raise fail("SWERL-E033", f"the table of agents cannot be read: {error}", "restore it from git", str(path)) from error


def install(agents: Sequence[Agent], out: Path, install_python: InstallPython | None = None, read: Read | None = None) -> dict[str, str]:
    """Fill ``out`` anew and return path to sha256 of every file in it."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    programs = {}
    for agent in agents:
        if isinstance(agent, Archive):
            _lay_out(agent, out / agent.name, read or download)
            programs |= {file.name: f"{agent.name}/bin/{file.name}" for file in sorted((out / agent.name / "bin").glob("*"))}
        else:
            programs |= {script: f"{agent.name}/bin/{script}" for script in agent.scripts}
    in_python = [agent for agent in agents if isinstance(agent, PythonAgent)]
    if in_python:
        assert install_python is not None
        install_python(in_python, out)
    (out / "bin").mkdir()
    for name, target in programs.items():
        (out / "bin" / name).symlink_to(f"../{target}")
    for path in out.rglob("*"):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | 0o444 | (0o111 if mode & 0o100 else 0))
    sums = {str(p.relative_to(out)): file_sha256(p) for p in sorted(out.rglob("*")) if p.is_file() and not p.is_symlink()}
    (out / "SHA256SUMS").write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()), encoding="utf-8")
    return sums


def write_manifest(agents: Sequence[Agent], out: Path, digest: str) -> None:
    """``digest`` names what the directory was made from (`table_digest`); ``sums`` what came out."""
    listed = {agent.name: {name: value for name, value in asdict(agent).items() if name != "name"} for agent in agents}
    manifest = {"agents": listed, "made_from": digest, "sums": file_sha256(out / "SHA256SUMS"), "mount": MOUNT}
    (out / "manifest.json").write_bytes(
        orjson.dumps(manifest, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)
    )


def table_digest(project: Path) -> str:
    """One hash over the table and the pins of the Python agents."""
    files = [project / "containers" / "agents.json", *sorted((project / "containers" / "agents").glob("*.txt"))]
    return hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest()


def is_current(out: Path, digest: str) -> bool:
    """Whether ``out`` was made completely from the table with this digest. `problems` looks at the bytes."""
    try:
        manifest = orjson.loads((out / "manifest.json").read_bytes())
        return manifest["made_from"] == digest and manifest["sums"] == file_sha256(out / "SHA256SUMS")
    except (OSError, ValueError, KeyError):
        return False


def problems(out: Path) -> list[str]:
    """Files that are not what SHA256SUMS says, missing ones and strange ones."""
    listed = dict(reversed(line.split("  ", 1)) for line in (out / "SHA256SUMS").read_text(encoding="utf-8").splitlines())
    found = {str(p.relative_to(out)): p for p in out.rglob("*") if p.is_file() and not p.is_symlink()}
    strange = found.keys() - listed.keys() - {"SHA256SUMS", "manifest.json"}
    other = (name for name in listed.keys() & found.keys() if file_sha256(found[name]) != listed[name])
    return [
        *(f"{name} is missing" for name in sorted(listed.keys() - found.keys())),
        *(f"{name} is not of the table" for name in sorted(strange)),
        *(f"{name} was changed" for name in sorted(other)),
    ]


def cached(cache: Path, agents: Sequence[Agent]) -> Read:
    """Read archives from ``cache``, and keep there what is downloaded; bytes are checked by `install` wherever they come from."""
    names = {agent.url: cache / agent.sha512[:32] for agent in agents if isinstance(agent, Archive)}

    def read(url: str) -> bytes:
        place = names[url]
        if place.is_file():
            return place.read_bytes()
        data = download(url)
        cache.mkdir(parents=True, exist_ok=True)
        partial = place.with_name(f"{place.name}.{os.getpid()}")
        partial.write_bytes(data)
        partial.replace(place)
        return data

    return read


def download(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
            return answer.read()
    except (urllib.error.URLError, TimeoutError) as error:
        raise fail("SWERL-E033", f"{url} cannot be fetched: {error}", "run this where the network reaches it", url) from error


def _lay_out(agent: Archive, folder: Path, read: Read) -> None:
    data = read(agent.url)
    if (found := hashlib.sha512(data).hexdigest()) != agent.sha512:
        message = f"{agent.name} {agent.version} has sha512 {found[:16]}…, the table says {agent.sha512[:16]}…"
        raise fail("SWERL-E033", message, "trust the table: fetch again, and ask why if it stays so", agent.url)
    try:
        _unpack(data, agent, folder)
    except tarfile.TarError as error:
        raise fail(
            "SWERL-E033", f"{agent.name} {agent.version} cannot be unpacked: {error}", "take it out of the table", agent.url
        ) from error
    for link, target in agent.links.items():
        place = folder / link
        place.parent.mkdir(parents=True, exist_ok=True)
        if not (folder / target).is_file():
            raise fail("SWERL-E033", f"{agent.name} {agent.version} has no {target}", "mend its links in the table", agent.url)
        (folder / target).chmod(0o755)
        place.symlink_to(Path(*[".."] * (len(Path(link).parts) - 1), target))


def _unpack(data: bytes, agent: Archive, folder: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:*") as archive:
        for member in archive:
            parts = Path(member.name).parts[agent.strip :]
            if not parts or member.isdir():
                continue
            member.name = str(Path(*parts))
            if not any(Path(member.name).is_relative_to(place) for place in agent.leave):
                archive.extract(member, folder, filter="data")
