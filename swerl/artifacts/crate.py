"""An archive as an RO-Crate 1.1 (w3id.org/ro/crate/1.1): what every file in it is, for readers that know nothing of swerl.

``write_crate(folder, metadata)`` describes the files that are there; statement, signature and sums come after it and speak of it, so they
are named without digests. ``crate_problems(folder)`` compares a crate with its folder.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from swerl.errors import Problem
from swerl.record.hashing import files_sha256
from swerl.record.rundir import write_json

CRATE_FILE = "ro-crate-metadata.json"
CONTEXT, PROFILE = "https://w3id.org/ro/crate/1.1/context", "https://w3id.org/ro/crate/1.1"
LATER = frozenset({CRATE_FILE, "provenance.json", "provenance.dsse.json", "SHA256SUMS"})
# pattern -> (media type, what it is); the first that fits
KINDS: tuple[tuple[str, str, str], ...] = (
    ("report.html", "text/html", "Report: curves, validations, cost, tasks, trials to read. One file, no requests."),
    ("summary.json", "application/json", "What the report shows, as data; reports are made anew from it."),
    ("config.snapshot.yaml", "application/yaml", "The configuration as it was asked for."),
    ("resolved.json", "application/json", "Every key of the configuration with its value and where it came from."),
    ("manifest.json", "application/json", "Code, locks, environments, model, tasks and machine of every start."),
    ("metrics.jsonl", "application/jsonl", "Metrics by step, one row a step."),
    ("metrics.superseded.jsonl", "application/jsonl", "Rows of steps that a resume trained again."),
    ("results.json", "application/json", "Validations with intervals, coverage and pass@k; cost by outcome; tasks and hosts set aside."),
    ("runtime_info.yaml", "application/yaml", "The outputs of the run: checkpoint, logs, trajectories, resolve rate, curves."),
    ("metadata.yaml", "application/yaml", "State, times, commit and versions of the run."),
    ("source.*.diff", "text/x-diff", "Changes that were not committed when the run was started."),
    ("curves/*.svg", "image/svg+xml", "A curve."),
    ("curves/*.png", "image/png", "A curve."),
    ("logs/*", "text/plain", "The end of a log."),
    ("events/*", "application/jsonl", "The newest events of a process."),
    ("trajectories/*.json", "application/json", "A trial: what was said and done."),
    ("trajectories/*", "text/plain", "A trial: what was said and done."),
)


def crate(files: Mapping[str, tuple[int, str]], metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The crate of ``files`` (name -> size in bytes, sha256). ``metadata`` is the archive's; pure."""
    entities = [_file(name, size, digest) for name, (size, digest) in sorted(files.items())]
    parts = [
        *({"@id": entity["@id"]} for entity in entities),
        *({"@id": name} for name in sorted(LATER - {CRATE_FILE, "provenance.dsse.json"})),
    ]
    results = [{"@id": name} for name in ("metrics.jsonl", "results.json", "report.html") if name in files]
    version = ((metadata.get("versions") or {}).get("swerl")) or "unknown"
    published = metadata.get("completed_at") or metadata.get("started_at") or "unknown"
    return {
        "@context": CONTEXT,
        "@graph": [
            {"@id": CRATE_FILE, "@type": "CreativeWork", "conformsTo": {"@id": PROFILE}, "about": {"@id": "./"}},
            {
                "@id": "./",
                "@type": "Dataset",
                "name": f"{metadata['project']}: run {metadata['run']}",
                "description": f"A reinforcement-learning run of a software-engineering agent, {metadata['status']}.",
                "datePublished": published,
                "license": {"@id": "#license"},
                "hasPart": parts,
                "mentions": {"@id": "#run"},
            },
            {
                "@id": "#license",
                "@type": "CreativeWork",
                "name": "No licence is stated",
                "description": "Whoever made the run decides who may use this archive.",
            },
            {
                "@id": "#run",
                "@type": "CreateAction",
                "name": f"swerl train, run {metadata['run']}",
                "startTime": metadata.get("started_at"),
                "endTime": metadata.get("completed_at"),
                "instrument": {"@id": "#swerl"},
                "object": [{"@id": name} for name in ("config.snapshot.yaml", "manifest.json") if name in files],
                "result": results,
                "actionStatus": {"@id": "http://schema.org/" + _STATUS.get(str(metadata["status"]), "FailedActionStatus")},
            },
            {
                "@id": "#swerl",
                "@type": "SoftwareApplication",
                "name": "swerl",
                "softwareVersion": version,
                "version": metadata.get("commit"),
            },
            *({"@id": name, "@type": "File", "description": said} for name, said in _SAID.items()),
            *entities,
        ],
    }


_STATUS = {"completed": "CompletedActionStatus", "running": "ActiveActionStatus", "prepared": "PotentialActionStatus"}
_SAID = {
    "SHA256SUMS": "Digests of all files, for sha256sum --check.",
    "provenance.json": "In-toto statement: what came out, and all that it was made from, by digest.",
}


def write_crate(folder: Path, metadata: Mapping[str, Any]) -> Path:
    write_json(folder / CRATE_FILE, crate(_present(folder), metadata))
    return folder / CRATE_FILE


def crate_problems(folder: Path) -> list[Problem]:
    """What a crate says and its folder does not hold, or the other way round. A crate that cannot be read is one problem."""
    path = folder / CRATE_FILE
    try:
        graph = orjson.loads(path.read_bytes())["@graph"]
        entities = {entity["@id"]: entity for entity in graph}
        root = entities[entities[CRATE_FILE]["about"]["@id"]]
        listed = {part["@id"] for part in root["hasPart"]}
        described = {name: entities[name] for name in listed}
    except (orjson.JSONDecodeError, KeyError, TypeError, OSError) as error:
        return [Problem("SWERL-A025", f"{CRATE_FILE} is no RO-Crate: {error!r}", "gather the run again: swerl artifacts RUN", str(path))]
    present = _present(folder)
    found = []
    for name, entity in sorted(described.items()):
        if name in LATER:
            continue
        if name not in present:
            found.append(_differs(f"{name} is in the crate and not in the folder", folder / name))
        elif (str(present[name][0]), present[name][1]) != (entity.get("contentSize"), entity.get("sha256")):
            found.append(_differs(f"{name} is not the file that the crate describes", folder / name))
    return found + [_differs(f"{name} is in no crate", folder / name) for name in sorted(present.keys() - listed)]


def _present(folder: Path) -> dict[str, tuple[int, str]]:
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and not (p.parent == folder and p.name in LATER))
    sums = zip(paths, files_sha256(paths), strict=True)
    return {p.relative_to(folder).as_posix(): (p.stat().st_size, digest) for p, digest in sums if digest}


def _file(name: str, size: int, digest: str) -> dict[str, Any]:
    media, said = next(((media, said) for pattern, media, said in KINDS if fnmatch.fnmatchcase(name, pattern)), ("text/plain", "A file."))
    return {
        "@id": name, "@type": "File", "name": name.rpartition("/")[2], "description": said, "encodingFormat": media,
        "contentSize": str(size), "sha256": digest,
    }  # fmt: skip


def _differs(message: str, where: Path) -> Problem:
    return Problem("SWERL-A025", message, "take it for changed: fetch it again, or gather the run again", str(where))
