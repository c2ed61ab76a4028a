"""What of an agent's work may take part in grading. Pure: names in, decisions out.

The agent's changes are applied to a fresh copy of the task, except those that would speak to the grader instead of the problem: files that
Python or pytest read by themselves, what a package says of itself to installers and plugin hosts, names that shadow the standard library,
compiled files, and whatever lies in a directory of tests (the task's own tests decide). A dropped change leaves the task's original in
place. Every drop is a finding. Source that names the grader's directories is let through and named: no honest program asks for them.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from swerl.trials.sandboxes.received import Received, printable

_STARTUP = {"sitecustomize.py", "usercustomize.py", "sitecustomize", "usercustomize"}
_PYTEST = {"conftest.py", "pytest.ini", ".pytest.ini", "pytest.toml", ".pytest.toml", "tox.ini"}
_PYTEST_SECTION = re.compile(r"""\s*\[+[\s"']*(tool[\s"']*[.:][\s"']*)?pytest\b""")
_METADATA = re.compile(r".*\.(dist-info|egg-info)$")
_GRADERS = re.compile(rb"""(?<![\w./-])/(?:tests|logs/verifier)(?![\w-])""")
_TEST_FILE = re.compile(r"(^test_.*\.py|.*_test\.(py|go|c|cc|cpp|rs)|.*\.(test|spec)\.[cm]?[jt]sx?)$")
_COMPILED = (".pyc", ".pyo", ".pth", ".egg-link")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something in an agent's work that was not let through, or that a reader should know."""

    kind: str
    path: str

    def as_dict(self) -> dict[str, str]:
        return {"kind": self.kind, "path": printable(self.path[:500])}


def screen(received: Received, content: Callable[[str], bytes]) -> tuple[list[str], list[Finding]]:
    """(names to drop, findings). ``content(name)`` is the text of a received regular file."""
    known, drop, findings = set(received.known), [], []
    directories = {str(parent) for name in received.written for parent in PurePosixPath(name).parents}
    for name in received.written:
        kind = _kind(PurePosixPath(name), name in known, name in directories, content)
        if kind:
            drop.append(name)
            findings.append(Finding(kind, name))
        elif name not in directories and _GRADERS.search(content(name)):
            findings.append(Finding("names-grader", name))
    findings += [Finding("link-outside", link) for link in received.refused]
    findings += [Finding("test-removed", name) for name in received.gone if _TEST_FILE.match(PurePosixPath(name).name)]
    return drop, findings


def keep_removed(gone: Iterable[str]) -> list[str]:
    """Removals that are carried out in the fresh copy: tests and test configuration stay."""
    return [name for name in gone if not (_TEST_FILE.match(PurePosixPath(name).name) or PurePosixPath(name).name in _PYTEST)]


def _kind(path: PurePosixPath, known: bool, holds_others: bool, content: Callable[[str], bytes]) -> str | None:
    if path.suffix in _COMPILED or "__pycache__" in path.parts:
        return "compiled-or-path-file" if path.name != "__pycache__" and path.suffix == ".pth" else "compiled"
    if holds_others and path.name not in _STARTUP:
        return _shadow(path, known)
    if path.name in _STARTUP:
        return "python-startup"
    if path.name in _PYTEST:
        return "test-configuration"
    if (path.name == "pyproject.toml" and _configures_by_toml(content(str(path)))) or (
        path.name == "setup.cfg" and _configures_by_lines(content(str(path)))
    ):
        return "test-configuration"
    if any(_METADATA.match(part) for part in path.parts):
        return "package-metadata"
    if _TEST_FILE.match(path.name) or "tests" in path.parts[:-1]:
        return "test-file"
    return _shadow(path, known)


def _configures_by_toml(data: bytes) -> bool:
    """By the reader that pytest uses; what it cannot read, by its lines."""
    try:
        found = tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        return _configures_by_lines(data)
    tool = found.get("tool")
    return isinstance(tool, dict) and "pytest" in tool


def _configures_by_lines(data: bytes) -> bool:
    """Lines as Python's text mode and its readers of ini files end them."""
    return any(_PYTEST_SECTION.match(line) for line in data.decode("utf-8", "replace").splitlines())


def _shadow(path: PurePosixPath, known: bool) -> str | None:
    """A new module or package at the top of the tree under a name of the standard library, which `python -m` would find first."""
    top = len(path.parts) == 1 and not known
    return (
        "shadows-standard-library" if top and path.name.split(".")[0] in sys.stdlib_module_names | {"pytest", "_pytest", "pluggy"} else None
    )
