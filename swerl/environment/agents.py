"""The runtimes of coding agents, fetched by hash and laid out for the `agents` image.

``containers/agents.json`` names, per agent: version, URL and sha512 of one archive, how many leading folders to strip, and links to make.
``fetch_agents(project, out)`` downloads what is not there, refuses other bytes (SWERL-E033), unpacks without owners, devices or paths
outside, and writes ``SHA256SUMS`` and ``manifest.json`` beside them. The same table gives the same folder.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from swerl.environment.hashing import file_sha256
from swerl.errors import fail

_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class Agent:
    name: str
    version: str
    url: str
    sha512: str
    strip: int = 0
    links: Mapping[str, str] = field(default_factory=dict)


def read_agents(path: Path) -> list[Agent]:
    try:
        return [Agent(name, **entry) for name, entry in sorted(orjson.loads(path.read_bytes()).items())]
    except (OSError, ValueError, TypeError) as error:
        raise fail("SWERL-E033", f"the table of agents cannot be read: {error}", "restore it from git", str(path)) from error


def fetch_agents(agents: list[Agent], out: Path, read: Callable[[str], bytes] | None = None) -> dict[str, str]:
    """Fill ``out`` anew and return path to sha256 of every file in it."""
    shutil.rmtree(out, ignore_errors=True)
    for agent in agents:
        data = (read or _download)(agent.url)
        if (found := hashlib.sha512(data).hexdigest()) != agent.sha512:
            message = f"{agent.name} {agent.version} has sha512 {found[:16]}…, the table says {agent.sha512[:16]}…"
            raise fail("SWERL-E033", message, "trust the table: fetch again, and ask why if it stays so", agent.url)
        try:
            _unpack(data, agent, out / agent.name)
        except tarfile.TarError as error:
            raise fail(
                "SWERL-E033", f"{agent.name} {agent.version} cannot be unpacked: {error}", "take it out of the table", agent.url
            ) from error
    sums = {str(p.relative_to(out)): file_sha256(p) for p in sorted(out.rglob("*")) if p.is_file() and not p.is_symlink()}
    (out / "SHA256SUMS").write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()), encoding="utf-8")
    listed = {a.name: {"version": a.version, "url": a.url, "sha512": a.sha512} for a in agents}
    (out / "manifest.json").write_bytes(orjson.dumps(listed, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE))
    return sums


def _unpack(data: bytes, agent: Agent, folder: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:*") as archive:
        for member in archive:
            parts = Path(member.name).parts[agent.strip :]
            if not parts or member.isdir():
                continue
            member.name = str(Path(*parts))
            archive.extract(member, folder, filter="data")
    for link, target in agent.links.items():
        place = folder / link
        place.parent.mkdir(parents=True, exist_ok=True)
        if not (folder / target).is_file():
            raise fail("SWERL-E033", f"{agent.name} {agent.version} has no {target}", "mend its links in the table", agent.url)
        (folder / target).chmod(0o755)
        place.symlink_to(Path(*[".."] * (len(Path(link).parts) - 1), target))


def _download(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
            return answer.read()
    except (urllib.error.URLError, TimeoutError) as error:
        raise fail("SWERL-E033", f"{url} cannot be fetched: {error}", "run this where the network reaches it", url) from error
