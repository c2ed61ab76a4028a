"""From several sources to one document: the file, a profile laid over it, ``--set``, and the environment for secrets.

Later sources win key by key; lists and `verl_overrides` entries are replaced, never concatenated. Every leaf remembers its source.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any

from swerl.config.document import Document, KeyPath, parse_value, read
from swerl.config.nearest import suggestion
from swerl.config.schema import PROJECT_ROOT, keys, sections
from swerl.errors import fail

_NETRC_HOSTS = {"WANDB_API_KEY": "api.wandb.ai"}


@dataclass(frozen=True, slots=True)
class Composed:
    """``values`` as nested plain data with only the keys that some source names; ``source`` by path of each key and section."""

    values: Mapping[str, Any]
    source: Mapping[KeyPath, str]

    def where(self, path: KeyPath) -> str:
        """The source of the key at ``path``, else of the innermost enclosing one that has a source."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.source:
                return self.source[path[:end]]
        return ""

    def where_exact(self, name: str) -> str:
        """The source of the key with this dotted name, or "" when no source names it."""
        return self.source.get(tuple(name.split(".")), "")


def compose(file: Path, profile: str | None, overrides: Mapping[str, str], env: Mapping[str, str]) -> Composed:
    values: dict[str, Any] = {}
    source: dict[KeyPath, str] = {}
    _lay_over(values, source, read(file, _shown(file)))
    if profile:
        path = profile_path(file, profile)
        _lay_over(values, source, read(path, _shown(path)))
    for name, text in overrides.items():
        path = _split(name)
        _put(values, path, parse_value(text, name) if isinstance(text, str) else text)
        source[path] = "--set"
    for key in keys().values():
        path = tuple(key.name.split("."))
        if key.secret and env.get(key.env):
            _put(values, path, env[key.env])
            source[path] = f"environment {key.env}"
        elif key.secret and not _given(values, path) and (stored := stored_secret(key.env, env)):
            _put(values, path, stored)
            source[path] = "environment .netrc"
    return Composed(values, source)


def stored_secret(name: str, env: Mapping[str, str]) -> str:
    """The secret as its own tool keeps it: `wandb login` writes ``WANDB_API_KEY`` into .netrc. Empty where there is none, or no such file
    that can be read."""
    host = _NETRC_HOSTS.get(name)
    if host is None or not (env.get("NETRC") or env.get("HOME")):
        return ""
    try:
        entry = netrc(env.get("NETRC") or Path(env["HOME"], ".netrc")).authenticators(host)
    except (OSError, NetrcParseError):
        return ""
    return (entry and entry[2]) or ""


def profile_path(file: Path, profile: str) -> Path:
    """Where a profile lives: a path as given, else ``profiles/<name>.yaml`` beside the file, else in the project. Raises C010."""
    if profile.endswith((".yaml", ".yml")) or "/" in profile:
        return Path(profile)
    homes = dict.fromkeys([file.resolve().parent / "profiles", PROJECT_ROOT / "profiles"])
    for home in homes:
        if (home / f"{profile}.yaml").is_file():
            return home / f"{profile}.yaml"
    known = sorted({p.stem for home in homes for p in home.glob("*.yaml")})
    raise fail(
        "SWERL-C010",
        f"there is no profile `{profile}`{suggestion(profile, known)}",
        f"name one of: {', '.join(known)}" if known else f"put {profile}.yaml into {next(iter(homes))}",
        f"PROFILE={profile}",
    )


def _split(name: str) -> KeyPath:
    """``a.b.c`` as a path; everything after ``verl_overrides.`` is one verl key."""
    head, _, rest = name.partition(".")
    if head == "verl_overrides" and rest:
        return (head, rest)
    path = tuple(name.split("."))
    if name not in keys() and name not in sections():
        raise fail(
            "SWERL-C009",
            f"there is no key `{name}`{suggestion(name, list(keys()))}",
            "use --set section.key=value with a key of the schema",
            "--set",
        )
    return path


def _lay_over(values: dict[str, Any], source: dict[KeyPath, str], document: Document) -> None:
    for path, place in document.places.items():
        source[path] = str(place)
    _merge(values, document.values, ())


def _merge(base: dict[str, Any], over: Mapping[str, Any], path: KeyPath) -> None:
    for name, value in over.items():
        here = (*path, name)
        is_group = ".".join(map(str, here)) in sections() or here == ("verl_overrides",)
        if value is None and is_group:  # a section of which only comments are left
            base.setdefault(name, {})
        elif is_group and isinstance(value, Mapping) and isinstance(base.setdefault(name, {}), dict):
            _merge(base[name], value, here)
        else:
            base[name] = value


def _put(values: dict[str, Any], path: KeyPath, value: Any) -> None:
    *outer, leaf = path
    node = values
    for part in outer:
        child = node.get(part)
        if not isinstance(child, dict):
            child = node[part] = {}
        node = child
    node[leaf] = value


def _given(values: Mapping[str, Any], path: KeyPath) -> bool:
    """Whether some source says something else than the empty text."""
    node: Any = values
    for part in path:
        node = node.get(part) if isinstance(node, Mapping) else None
    return node not in (None, "")


def _shown(path: Path) -> str:
    """A short name for messages: relative to the working directory where that is shorter."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
