"""The part of a task's Dockerfile that says how its work tree is made: COPY, WORKDIR, ENV, RUN. Parsed here, carried out inside a sandbox.

FROM names an image; this sandbox has one root filesystem, which stands for it. What cannot be honoured here (other users, build stages,
remote ADD) is refused when the task is loaded, never skipped.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from swerl.errors import SwerlError, fail

_IGNORED = {"LABEL", "EXPOSE", "CMD", "ENTRYPOINT", "HEALTHCHECK", "STOPSIGNAL", "MAINTAINER", "VOLUME"}
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


@dataclass(frozen=True, slots=True)
class Copy:
    sources: tuple[str, ...]
    target: str


@dataclass(frozen=True, slots=True)
class Run:
    """``env`` and ``workdir`` are what the file has set up to this line."""

    command: str
    workdir: str
    env: tuple[tuple[str, str], ...]


@dataclass(slots=True)
class Build:
    """What to do, in order, and what holds afterwards for every command."""

    image: str
    workdir: str = "/"
    env: dict[str, str] = field(default_factory=dict)
    steps: list[Copy | Run] = field(default_factory=list)


def parse(path: Path) -> Build:
    """SwerlError SWERL-T020 names the line that this sandbox cannot honour."""
    build: Build | None = None
    for number, word, rest in _instructions(path.read_text()):
        if word == "FROM":
            if build is not None:
                raise _refused(path, number, "build stages")
            build = Build(image=rest.split()[0])
        elif build is None:
            if word != "ARG":
                raise _refused(path, number, f"{word} before FROM")
        elif word == "WORKDIR":
            build.workdir = str(PurePosixPath(build.workdir) / _expand(rest, build.env))
        elif word in ("ENV", "ARG"):
            build.env.update(_pairs(_expand(rest, build.env)))
        elif word in ("COPY", "ADD"):
            build.steps.append(_copy(path, number, rest, build))
        elif word == "RUN":
            command = " ".join(shlex.quote(part) for part in json.loads(rest)) if rest.startswith("[") else rest
            build.steps.append(Run(command, build.workdir, tuple(build.env.items())))
        elif word == "USER":
            if rest.split(":")[0] not in ("root", "0"):
                raise _refused(path, number, f"user {rest}")
        elif word == "SHELL":
            if "bash" not in rest:
                raise _refused(path, number, f"shell {rest}")
        elif word not in _IGNORED:
            raise _refused(path, number, word)
    if build is None:
        raise _refused(path, 1, "a file without FROM")
    return build


def _copy(path: Path, number: int, rest: str, build: Build) -> Copy:
    parts = json.loads(rest) if rest.startswith("[") else shlex.split(_expand(rest, build.env))
    flags = [part for part in parts if part.startswith("--")]
    names = [part for part in parts if not part.startswith("--")]
    if any(flag.startswith("--from") for flag in flags) or any("://" in name for name in names[:-1]):
        raise _refused(path, number, "copying from another image or address")
    if len(names) < 2 or any(".." in PurePosixPath(name).parts for name in names[:-1]):
        raise _refused(path, number, "a source outside the task's environment")
    target = names[-1]
    if not target.startswith("/"):
        target = build.workdir.rstrip("/") + "/" + target
    if PurePosixPath(target) == PurePosixPath(build.workdir) or target.endswith("/."):
        target = f"{PurePosixPath(target)}/"  # a directory that is there: a file goes into it
    return Copy(tuple(names[:-1]), target)


def _instructions(text: str) -> list[tuple[int, str, str]]:
    found, pending, started = [], "", 0
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#") or (not pending and not line.strip()):
            continue
        started = started if pending else number
        if line.rstrip().endswith("\\"):
            pending += line.rstrip()[:-1] + " "
            continue
        word, _, rest = (pending + line).strip().partition(" ")
        found.append((started, word.upper(), rest.strip()))
        pending = ""
    return found


def _pairs(rest: str) -> dict[str, str]:
    if "=" in rest.split()[0]:
        return dict(part.split("=", 1) for part in shlex.split(rest) if "=" in part)
    key, _, value = rest.partition(" ")
    return {key: value.strip()} if value else {}


def _expand(text: str, env: dict[str, str]) -> str:
    return _VARIABLE.sub(lambda match: env.get(match[1] or match[2], match[0]), text)


def _refused(path: Path, number: int, what: str) -> SwerlError:
    return fail(
        "SWERL-T020",
        f"the bubblewrap sandbox cannot honour {what}",
        "set docker_image in task.toml and put the files into environment/, or run this task with another sandbox",
        where=f"{path}:{number}",
    )
