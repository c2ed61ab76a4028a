"""Every problem id of the project with its own words, read from the source: the registry behind ``docs/troubleshooting.md``.

An id is introduced where a problem is made: ``fail("SWERL-R003", message, remedy)``, ``Problem("SWERL-R003", ...)``, or an f-string that
begins with it. The scan reads the syntax trees below ``swerl/``, so an id cannot be in use and missing here, and nothing has to be
registered. Checks of preflight carry their texts as attributes and are taken from ``catalog``. Expressions inside a message appear as their
source in braces.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ID = re.compile(r"SWERL-[A-Z]\d{3}")
_PRINTED = re.compile(r"(?P<id>SWERL-[A-Z]\d{3})[: ]\s*(?P<message>.+)", re.DOTALL)  # by programs that cannot import swerl.errors
FAMILIES = {
    "C": "Configuration",
    "P": "Preflight",
    "R": "Runs",
    "W": "Watchdog",
    "G": "Gateway",
    "T": "Trials",
    "D": "Data",
    "M": "Model and policy",
    "A": "Artifacts",
    "E": "Environment",
}


@dataclass(frozen=True, slots=True)
class Use:
    """One place that makes a problem. ``message`` and ``remedy`` are empty where they are computed;
    ``room`` is the package below swerl."""

    id: str
    message: str
    remedy: str
    room: str


def uses(package: Path) -> list[Use]:
    """All uses below the package directory, by id and then by place."""
    found = [use for path in sorted(package.rglob("*.py")) for use in _in_module(path, package.parent)]
    return sorted(found, key=lambda u: (u.id, u.room, u.message))


def mentioned(package: Path) -> set[str]:
    """Every id that any string of the source mentions."""
    return {m.group(0) for path in package.rglob("*.py") for m in ID.finditer(path.read_text())}


def _in_module(path: Path, root: Path) -> Iterator[Use]:
    text = path.read_text()
    if not ID.search(text):
        return
    room = path.relative_to(root).parts[1].removesuffix(".py")
    tree = ast.parse(text, str(path))
    yield from _in_scope(tree, room, _assigned(tree))


def _in_scope(scope: ast.AST, room: str, names: dict[str, ast.expr]) -> Iterator[Use]:
    """Uses below ``scope``; ``names`` are the strings assigned around it, so that ``message = ...`` before a problem is found too."""
    for node in ast.iter_child_nodes(scope):
        if isinstance(node, ast.Call) and (use := _use(node, room, names)):
            yield use
        if isinstance(node, ast.JoinedStr) and (match := _PRINTED.match(_text(node, names))):
            yield Use(match["id"], match["message"], "", room)
        yield from _in_scope(
            node, room, {**names, **_assigned(node)} if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else names
        )


def _assigned(scope: ast.AST) -> dict[str, ast.expr]:
    """The first value of each name assigned in ``scope`` itself, inner functions and classes left out."""
    found: dict[str, ast.expr] = {}
    todo = list(ast.iter_child_nodes(scope))
    while todo:
        node = todo.pop(0)
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            found.setdefault(node.targets[0].id, node.value)
        if isinstance(node, ast.stmt | ast.ExceptHandler) and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            todo += ast.iter_child_nodes(node)
    return found


def _use(call: ast.Call, room: str, names: dict[str, ast.expr]) -> Use | None:
    if not call.args or not isinstance(call.args[0], ast.Constant) or not ID.fullmatch(str(call.args[0].value)):
        return None
    given = {k.arg: k.value for k in call.keywords}
    maker = call.func.id if isinstance(call.func, ast.Name) else ""
    if maker in {"fail", "Problem"}:
        message = call.args[1] if len(call.args) > 1 else given.get("message")
        remedy = call.args[2] if len(call.args) > 2 else given.get("remedy")
        return Use(str(call.args[0].value), _text(message, names), _text(remedy, names), room)
    texts = [_text(argument, names) for argument in call.args[1:]]
    return Use(str(call.args[0].value), " ".join(t for t in texts if t), _text(given.get("remedy"), names), room)


def _text(node: ast.expr | None, names: dict[str, ast.expr]) -> str:
    """A string as it will read, with expressions in braces; alternatives are joined by a bar; empty for anything that is no string."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(p.value) if isinstance(p, ast.Constant) else "{" + ast.unparse(p.value) + "}" for p in node.values)
    if isinstance(node, ast.IfExp):
        return " | ".join(t for t in (_text(node.body, names), _text(node.orelse, names)) if t)
    if isinstance(node, ast.Name) and node.id in names:
        return _text(names[node.id], {k: v for k, v in names.items() if k != node.id})
    return ""
