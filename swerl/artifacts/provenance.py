"""Statements on disk: written for a run when it ends and for an archive when it is gathered, signed on demand, and checked.

``provenance.json`` lies beside the files that it names; ``provenance.dsse.json`` is the same, signed. ``check`` compares every subject
with the file there, and says which files of an archive no statement speaks of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from swerl.artifacts.crate import CRATE_FILE, crate_problems
from swerl.artifacts.signing import opened, payload, sign
from swerl.artifacts.statement import PREDICATE, STATEMENT, statement
from swerl.errors import Problem, fail
from swerl.record.checkpoints import MARKER, committed
from swerl.record.hashing import files_sha256
from swerl.record.rundir import RunDir, read_json, write_json

STATEMENT_FILE = "provenance.json"
ENVELOPE_FILE = "provenance.dsse.json"
_OUR_FILES = frozenset({STATEMENT_FILE, ENVELOPE_FILE, "SHA256SUMS"})


@dataclass(frozen=True, slots=True)
class Checked:
    """``signed_by`` is None without a public key to check with."""

    statement: dict[str, Any]
    subjects: int
    signed_by: Path | None
    problems: tuple[Problem, ...]


def seal_run(run: RunDir, *, finished: float | None, outcome: str) -> Path:
    """The run's statement: its configuration, metrics, journals and the markers of its checkpoints (which hold the shards' digests)."""
    return _write(run.root, run.manifest, _products(run), finished, outcome)


def seal_archive(folder: Path, *, finished: float | None, outcome: str) -> Path:
    """The archive's statement: every file in it, and the manifest as the archive has it (without secrets)."""
    return _write(folder, folder / "manifest.json", _stated(folder), finished, outcome)


def _write(folder: Path, manifest: Path, files: Sequence[Path], finished: float | None, outcome: str) -> Path:
    subjects = {str(p.relative_to(folder)): digest for p, digest in zip(files, files_sha256(files), strict=True) if digest}
    path = folder / STATEMENT_FILE
    write_json(path, statement(read_json(manifest), subjects, finished=finished, outcome=outcome))
    (folder / ENVELOPE_FILE).unlink(missing_ok=True)  # it would speak of what was
    return path


def sign_folder(folder: Path, key: Path) -> Path:
    path = folder / ENVELOPE_FILE
    write_json(path, sign(_read(folder / STATEMENT_FILE), key))
    return path


def check(folder: Path, public_key: Path | None = None) -> Checked:
    """Compare the statement in ``folder`` with the files there. SWERL-A010 without one, SWERL-A012 when ``public_key`` has not signed."""
    found = _read(folder / STATEMENT_FILE)
    problems = []
    envelope = folder / ENVELOPE_FILE
    if public_key is not None:
        signed = opened(_read(envelope), public_key)
        if signed != found:
            problems.append(_differs("SWERL-A012", f"{STATEMENT_FILE} is not the signed statement", folder / STATEMENT_FILE))
    elif envelope.exists() and payload(_read(envelope)) != found:
        problems.append(_differs("SWERL-A012", f"{STATEMENT_FILE} is not the statement of {ENVELOPE_FILE}", envelope))
    if (found.get("_type"), found.get("predicateType")) != (STATEMENT, PREDICATE):
        raise fail("SWERL-A010", f"{STATEMENT_FILE} is no statement of a run", "gather the run again", str(folder / STATEMENT_FILE))
    subjects = {entry["name"]: entry["digest"]["sha256"] for entry in found["subject"]}
    for (name, expected), digest in zip(subjects.items(), files_sha256([folder / name for name in subjects]), strict=True):
        if digest is None:
            problems.append(_differs("SWERL-A013", f"{name} is missing", folder / name))
        elif digest != expected:
            problems.append(_differs("SWERL-A013", f"{name} has other content than was stated", folder / name))
    if (folder / "metadata.yaml").exists():  # an archive; a run's directory holds much besides
        present = {str(p.relative_to(folder)) for p in _stated(folder)}
        problems += [_differs("SWERL-A013", f"{name} is in no statement", folder / name) for name in sorted(present - subjects.keys())]
        named = {problem.where for problem in problems}
        crate = crate_problems(folder) if (folder / CRATE_FILE).exists() else []
        problems += [problem for problem in crate if problem.where not in named]  # each difference once
    return Checked(found, len(subjects), public_key, tuple(problems))


def _stated(archive: Path) -> list[Path]:
    return sorted(p for p in archive.rglob("*") if p.is_file() and p.name not in _OUR_FILES)


def _products(run: RunDir) -> list[Path]:
    single = [run.config_snapshot, run.resolved, run.manifest, run.metrics, run.metrics_superseded, run.lineage, run.trials_journal]
    many = [
        *run.root.glob("source.*.diff"),
        *(path / MARKER for path in committed(run.checkpoints)),
        *(run.gateway / "sessions").glob("*.jsonl"),
    ]
    return sorted(p for p in [*single, *many] if p.is_file())


def _differs(id: str, message: str, where: Path) -> Problem:
    return Problem(id, message, "take it for changed: fetch it again, or gather the run again", str(where))


def _read(path: Path) -> dict[str, Any]:
    try:
        return orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        remedy = "gather the run: swerl artifacts RUN; sign it: swerl artifacts sign"
        raise fail("SWERL-A010", f"{path.name} cannot be read: {error}", remedy, str(path)) from error
