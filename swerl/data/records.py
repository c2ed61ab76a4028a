"""Records of SWE-bench-like sets: read, checked, and given their image. What cannot be judged is refused by field (SWERL-D020).

Wanted are instance_id, repo, base_commit, problem_statement, patch, test_patch, FAIL_TO_PASS and PASS_TO_PASS (lists, or lists as JSON
text), and an image: ``docker_image``, ``image_name`` or ``image``, or a pattern. ``install_config`` (SWE-rebench) may hold ``test_cmd``, a
command or a list of commands of which one runs pytest, and ``log_parser``. Tests are named as pytest prints them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swerl.errors import Problem, fail

PYTEST = "python -m pytest -rA -p no:cacheprovider --tb=no --color=no"
IMAGE_FIELDS = ("docker_image", "image_name", "image")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_COMMIT = re.compile(r"[0-9a-f]{7,40}")
_TARGET = re.compile(r"^(?:---|\+\+\+) [ab]/(\S+)", re.MULTILINE)
# pytest where a shell takes a command's name: after the start, an operator or variables, as `pytest` or `python -m pytest`.
RUNS_PYTEST = re.compile(
    r"(?:^|[;&|({\n])\s*(?:\w+=(?:'[^']*'|\"[^\"]*\"|\S*)\s+)*(?:pytest|py\.test|python3?(?:\s+-(?!m\b)\w+)*\s+-m\s+pytest)(?=\s|$)"
)
# Sets that are not of this shape: what only they have, and what they are.
OTHERS = (
    ({"parsed_commit_content", "expected_output_json"}, "R2E-Gym, whose images bring their own tests"),
    ({"fix_patch", "f2p_tests"}, "Multi-SWE-bench, which has other runners than pytest"),
    ({"selected_test_files_to_run"}, "SWE-bench Pro, whose tests are run by scripts of its own"),
)


@dataclass(frozen=True, slots=True)
class Record:
    """One checked record. ``test_commands`` are run one after the other."""

    instance_id: str
    repo: str
    base_commit: str
    problem_statement: str
    patch: str
    test_patch: str
    fail_to_pass: tuple[str, ...]
    pass_to_pass: tuple[str, ...]
    image: str
    test_commands: tuple[str, ...]


def read_records(path: Path) -> list[dict[str, Any]]:
    """Rows of a .jsonl, .json (a list) or .parquet file."""
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        return pq.read_table(path).to_pylist()
    remedy = "give a .jsonl, .json or .parquet file of records"
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.split("\n") if line.strip()]
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise fail("SWERL-D021", f"{path} is not JSON: {error}", remedy, str(path)) from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise fail("SWERL-D021", f"{path} does not hold a list of records", remedy, str(path))
    return rows


def fields_of(instance_id: str, repo: str) -> dict[str, str]:
    """What a pattern may name. ``instance_id`` is as published images have it: in small letters, and `_1776_` for two underscores."""
    owner, _, name = repo.partition("/")
    small = instance_id.lower()
    return {
        "instance_id": small.replace("__", "_1776_"),
        "instance_id_s": small.replace("__", "_s_"),
        "instance_id_as_is": instance_id,
        "repo": repo.lower(),
        "owner": owner.lower(),
        "name": name.lower(),
    }


def check_pattern(pattern: str) -> None:
    """SWERL-D022 for a pattern that names a field which no record has."""
    known = fields_of("a", "b/c")
    try:
        pattern.format_map(known)
    except (KeyError, ValueError, IndexError, AttributeError) as error:
        what = f"the pattern {pattern!r} cannot be filled in: {error}"
        raise fail("SWERL-D022", what, "use " + ", ".join(f"{{{name}}}" for name in known)) from error


def check(row: Mapping[str, Any], number: int, image_pattern: str = "") -> Record | list[Problem]:
    """The record, or everything that is wrong with it."""
    problems: list[Problem] = []
    named = row.get("instance_id")
    name = named if isinstance(named, str) and _ID.fullmatch(named) else f"record {number}"

    def wrong(key: str, what: str) -> None:
        problems.append(problem(name, key, what))

    def text(key: str, pattern: re.Pattern[str] | None = None) -> str:
        value = row.get(key)
        if not isinstance(value, str) or not value.strip():
            wrong(key, "is missing or empty")
            return ""
        if pattern is not None and not pattern.fullmatch(value):
            wrong(key, f"is {value!r}, which does not look like one")
        return value

    def tests(key: str, needed: bool) -> tuple[str, ...]:
        value = row.get(key, [])
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except json.JSONDecodeError:
                value = None
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value) or (needed and not value):
            wrong(key, "is not a list of test names")
            return ()
        if strange := [item for item in value if "::" not in item]:
            wrong(key, f"names {strange[0]!r}, which is no name that pytest prints (and {len(strange) - 1} more)")
        return tuple(value)

    image = next((row[key] for key in IMAGE_FIELDS if row.get(key)), "")
    if not image and image_pattern and isinstance(row.get("repo"), str):
        image = image_pattern.format_map(fields_of(name, row["repo"]))
    if not isinstance(image, str) or not image:
        wrong(IMAGE_FIELDS[0], "is missing (so are image_name and image) and no image pattern is given")
    record = Record(
        instance_id=text("instance_id", _ID),
        repo=text("repo"),
        base_commit=text("base_commit", _COMMIT),
        problem_statement=text("problem_statement"),
        patch=text("patch"),
        test_patch=text("test_patch"),
        fail_to_pass=tests("FAIL_TO_PASS", needed=True),
        pass_to_pass=tests("PASS_TO_PASS", needed=False),
        image=str(image),
        test_commands=_commands(row, wrong),
    )
    if record.test_patch and not touched_files(record.test_patch):
        wrong("test_patch", "names no file")
    for key in Record.__slots__:
        value = getattr(record, key)
        if any(_unwritable(item) for item in ((value,) if isinstance(value, str) else value)):
            wrong(key, "holds half a character (a lone surrogate) or a NUL, which no file can")
    if problems and (other := next((what for keys, what in OTHERS if keys <= row.keys()), None)):
        wrong("the record", f"looks like one of {other}")
    return problems or record


def _commands(row: Mapping[str, Any], wrong: Any) -> tuple[str, ...]:
    install = row.get("install_config") or {}
    if not isinstance(install, Mapping):
        wrong("install_config", "is not a mapping")
        return ()
    parser = install.get("log_parser")
    if parser and "pytest" not in str(parser).lower():
        wrong("install_config.log_parser", f"is {parser!r}; only pytest's results can be judged")
    for key, language in (("language", row.get("language")), ("install_config.language", install.get("language"))):
        if language and str(language).lower() not in ("python", "py"):
            wrong(key, f"is {language!r}; only pytest's results can be judged")
    value = install.get("test_cmd") or PYTEST
    commands = [value] if isinstance(value, str) else value
    if not isinstance(commands, list | tuple) or not all(isinstance(item, str) for item in commands):
        wrong("install_config.test_cmd", "is neither a command nor a list of commands")
        return ()
    if not any(RUNS_PYTEST.search(command) for command in commands):
        wrong("install_config.test_cmd", f"is {'; '.join(commands)[:80]!r}, which does not run pytest; only its results can be judged")
    return tuple(commands)


def touched_files(patch: str) -> set[str]:
    """Paths that a git patch changes, creates or removes."""
    return set(_TARGET.findall(patch))


def problem(name: str, key: str, what: str) -> Problem:
    return Problem("SWERL-D020", f"record {name}: {key} {what}", "mend the record or leave it out", where=f"{name}.{key}")


def _unwritable(text: str) -> bool:
    return "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text)
