"""A run's manifest as an in-toto statement with SLSA-shaped provenance: what came out, and all that it was made from, by digest.

``statement(manifest, subjects, ...)`` is pure. Subjects are files with their sha256; the predicate is SLSA provenance v1: what the user
asked for (external parameters), what we decided (internal parameters), what went in (resolved dependencies: code, locks, model, tasks,
environments, image), who ran it and when. Formats: in-toto Statement v1 (github.com/in-toto/attestation, spec/v1), SLSA v1.0 provenance
(slsa.dev/spec/v1.0/provenance). The manifest itself stands whole under ``internalParameters``: nothing of it is only in prose.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:swerl:train:v1"
BUILDER = "urn:swerl:supervisor:v1"


def statement(manifest: Mapping[str, Any], subjects: Mapping[str, str], *, finished: float | None, outcome: str) -> dict[str, Any]:
    """``subjects`` maps a name to a sha256 in hex. ``finished`` is in seconds since 1970, None while the run lives."""
    attempts = manifest["attempts"]
    first, last = attempts[0], attempts[-1]
    return {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": digest}} for name, digest in sorted(subjects.items())],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"command": last["command"], "config": last["config"], "run": manifest["run"]},
                "internalParameters": {"project": manifest["project"], "attempts": attempts},
                "resolvedDependencies": list(_dependencies(last)),
            },
            "runDetails": {
                "builder": {"id": BUILDER, "version": {"swerl": last["versions"]["swerl"], "python": last["versions"]["python"]}},
                "metadata": {
                    "invocationId": f"{manifest['run']}#{last['attempt']}",
                    "startedOn": _time(first["started"]),
                    "finishedOn": _time(finished),
                },
                "byproducts": [{"name": "outcome", "annotations": {"state": outcome}}],
            },
        },
    }


def _dependencies(attempt: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    source, found = attempt["source"], attempt.get("situation") or {}
    if source["commit"]:
        entry: dict[str, Any] = {"name": "source", "uri": "git+file:.", "digest": {"gitCommit": source["commit"]}}
        if source["dirty"]:
            entry["annotations"] = {"changes_sha256": source["dirty_sha256"], "untracked": source["untracked"]}
        yield entry
    for name, digest in (found.get("locks") or {}).items():
        if digest:
            yield {"name": name, "digest": {"sha256": digest}}
    if found.get("config"):
        yield {"name": "config.schema.json", "digest": {"sha256": found["config"]["schema_sha256"]}}
    for name, environment in (found.get("environments") or {}).items():
        if "packages_sha256" in environment:
            facts = {key: environment[key] for key in ("python", "extras", "packages", "problems", "verified")}
            yield {"name": f"environment/{name}", "digest": {"sha256": environment["packages_sha256"]}, "annotations": facts}
    if found.get("image"):
        image, _, digest = found["image"].partition("@sha256:")
        yield (
            {"name": "image", "uri": f"oci://{image}", "digest": {"sha256": digest}}
            if digest
            else {"name": "image", "uri": f"oci://{image}"}
        )
    for name, digest in (found.get("model") or {}).items():
        yield {"name": f"model/{name}", "digest": {"sha256": digest}}
    for split, tasks in (found.get("data") or {}).items():
        if tasks:
            yield {"name": f"index/{split}", "digest": {"sha256": tasks["index_sha256"]}}
            yield {"name": f"tasks/{split}", "digest": {"sha256": tasks["tasks_sha256"]}, "annotations": {"tasks": tasks["tasks"]}}


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
