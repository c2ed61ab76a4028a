"""The way in: a file on disk to a `RunConfig`, and a resolved configuration to disk and back."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import orjson

from swerl.config.check import check
from swerl.config.compose import compose, stored_secret
from swerl.config.resolve import build, completed, resolve
from swerl.config.runconfig import RunConfig, Secrets
from swerl.config.schema import keys
from swerl.errors import Problem, SwerlError, fail

_NOTHING: Mapping[str, str] = {}
_FORMAT = 1
_PLACEHOLDER_ID = "SWERL-C007"


@dataclass(frozen=True, slots=True)
class Examined:
    """All findings about a file, and the configuration where it can be built: placeholders alone do not prevent that."""

    config: RunConfig | None
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        return not any(p.severity == "fatal" for p in self.problems)


def examine(
    path: Path, profile: str | None = None, overrides: Mapping[str, str] = _NOTHING, env: Mapping[str, str] | None = None
) -> Examined:
    """Everything there is to say about the file. Raises only when there is no document to speak of (C001 to C003, C009, C010)."""
    composed = compose(Path(path), profile, overrides, os.environ if env is None else env)
    problems = tuple(check(composed))
    if any(p.severity == "fatal" and p.id != _PLACEHOLDER_ID for p in problems):
        return Examined(None, problems)
    return Examined(resolve(composed, Path(path), profile), problems)


def load(
    path: Path, profile: str | None = None, overrides: Mapping[str, str] = _NOTHING, env: Mapping[str, str] | None = None
) -> RunConfig:
    """The configuration in ``path`` with ``profile`` over it; raises `SwerlError` with every fatal problem at once."""
    found = examine(path, profile, overrides, env)
    fatal = [p for p in found.problems if p.severity == "fatal"]
    if fatal or found.config is None:
        raise SwerlError(*fatal)
    return found.config


def dump_resolved(config: RunConfig) -> bytes:
    """``resolved.json`` of a run directory: everything but the secrets, for processes that start later."""
    body = {
        "format": _FORMAT,
        "file": str(config.file),
        "profile": config.profile,
        "base_dir": str(config.base_dir),
        "digest": config.digest,
        "source": dict(config.source),
        "config": config.as_dict(),
    }
    return orjson.dumps(body, option=orjson.OPT_INDENT_2) + b"\n"


def load_resolved(path: Path, env: Mapping[str, str] | None = None) -> RunConfig:
    """The configuration in a ``resolved.json``, secrets taken from the environment. Raises C011 when the file does not hold one.

    A key that is younger than the run has its default; the digest stays the one that the run was started under.
    """
    environment = os.environ if env is None else env
    try:
        body = orjson.loads(Path(path).read_bytes())
        if sha256(orjson.dumps(body["config"], option=orjson.OPT_SORT_KEYS)).hexdigest() != body["digest"]:
            raise fail("SWERL-C011", f"{path} was changed after it was written", "render the run again with `swerl render`", str(path))
        secrets = Secrets(
            **{key.leaf: environment.get(key.env) or stored_secret(key.env, environment) for key in keys().values() if key.secret}
        )
        config = build(
            completed(body["config"], body["profile"]),
            secrets=secrets,
            source=body["source"],
            file=Path(body["file"]),
            profile=body["profile"],
            base_dir=Path(body["base_dir"]),
        )
    except (OSError, KeyError, TypeError, orjson.JSONDecodeError) as error:
        raise fail(
            "SWERL-C011", f"no resolved configuration in {path}: {error}", "render the run again with `swerl render`", str(path)
        ) from error
    return replace(config, digest=body["digest"])
