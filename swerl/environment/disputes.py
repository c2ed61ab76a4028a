"""Files that several distributions bring under one name: where the contents differ, the one installed last decides, by no promised order.

Every such file is decided in pyproject.toml: one of the packages goes (``tool.uv.override-dependencies``), or, where nothing reads the
file, no environment has it (``tool.swerl.left-out``; ``scripts/leave_out.py`` removes it after an installation). What RECORD files say is
enough to find them: no file of a package is read.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping

from swerl.environment.installed import Distribution, Environment
from swerl.errors import Problem, SwerlError

_DECIDE = "decide in pyproject.toml: keep one of the packages (tool.uv.override-dependencies), or name the file in tool.swerl.left-out"
_NAMED = 5


def claims(env: Environment) -> dict[str, list[tuple[Distribution, str]]]:
    """Path below site-packages -> (distribution, sha256) of each RECORD that gives it a hash. One file has one spelling here, also where a
    RECORD names it through a folder above site-packages."""
    site = os.path.relpath(env.site_packages, env.root)
    found: dict[str, list[tuple[Distribution, str]]] = defaultdict(list)
    for dist in env.distributions:
        for entry in dist.entries:
            if entry.sha256:
                found[os.path.relpath(os.path.normpath(os.path.join(site, entry.path)), site)].append((dist, entry.sha256))  # noqa: PTH118
    return found


def disputed(found: Mapping[str, list[tuple[Distribution, str]]], left_out: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Path -> names of the distributions that record it differently, for every path that is not left out."""
    return {
        path: tuple(sorted(dist.name for dist, _ in owners))
        for path, owners in sorted(found.items())
        if path not in left_out and len({sha256 for _, sha256 in owners}) > 1
    }


def undecided(env: Environment, left_out: Collection[str]) -> Iterator[Problem]:
    """SWERL-E026 for each set of packages that bring different files of one name."""
    together: dict[str, list[str]] = defaultdict(list)
    for path, owners in disputed(claims(env), left_out).items():
        together[" and ".join(owners)].append(path)
    for owners, paths in sorted(together.items()):
        yield Problem("SWERL-E026", f"{owners} bring different {some(paths)}", _DECIDE, str(env.site_packages))


def refuse(env: Environment, left_out: Collection[str]) -> None:
    """Raise what ``undecided`` finds: nothing is packed or anchored whose content is a matter of order."""
    if found := list(undecided(env, left_out)):
        raise SwerlError(*found)


def problems(env: Environment, left_out: Collection[str]) -> Iterator[Problem]:
    """What is undecided, and SWERL-E028 for each file that is there although it is left out."""
    yield from undecided(env, left_out)
    for path in sorted(left_out):
        if (env.site_packages / path).is_file():
            message = f"{path} is there, and pyproject.toml leaves it out"
            yield Problem("SWERL-E028", message, f"remove it: `python scripts/leave_out.py {env.root}`", str(env.site_packages / path))


def some(names: list[str]) -> str:
    """How many files, and the names of the first few."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    noun = "file" if len(names) == 1 else "files"
    return f"{len(names)} {noun} ({', '.join(names[:_NAMED])}{more})"
