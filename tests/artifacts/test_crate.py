"""An archive is an RO-Crate: shaped as its specification says, complete, and every difference found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from swerl.artifacts.crate import CRATE_FILE, PROFILE, crate, crate_problems
from swerl.artifacts.provenance import check
from swerl.cli import run as swerl_run

from .test_provenance import archive, make_run  # noqa: F401 - fixtures

METADATA = {"project": "p", "run": "r", "status": "completed", "started_at": "2026-01-01T00:00:00+00:00", "completed_at": None}


def test_crate_has_what_the_specification_requires():
    found = crate({"metrics.jsonl": (3, "a" * 64), "odd name.bin": (0, "b" * 64)}, METADATA)
    entities = {entity["@id"]: entity for entity in found["@graph"]}
    assert len(entities) == len(found["@graph"]), "each @id once"
    assert entities[CRATE_FILE]["conformsTo"] == {"@id": PROFILE} and entities[CRATE_FILE]["about"] == {"@id": "./"}
    root = entities["./"]
    assert root["@type"] == "Dataset" and all(root[name] for name in ("name", "description", "datePublished", "license"))
    for entity in found["@graph"]:
        for value in entity.values():
            for reference in value if isinstance(value, list) else [value]:
                if isinstance(reference, dict) and not reference["@id"].startswith("http"):
                    assert reference["@id"] in entities, "what is referred to is described"


def test_archive_is_a_crate_and_verifies(archive: Path):  # noqa: F811
    assert not crate_problems(archive)
    graph = {entity["@id"]: entity for entity in json.loads((archive / CRATE_FILE).read_bytes())["@graph"]}
    assert {"report.html", "metrics.jsonl", "config.snapshot.yaml", "manifest.json", "summary.json"} <= graph.keys()
    assert any(name.startswith("curves/") for name in graph) and any(name.startswith("trajectories/") for name in graph)
    assert all(entity["description"] != "A file." for entity in graph.values() if entity["@type"] == "File")
    assert not check(archive).problems


@pytest.mark.parametrize("change", ["changed", "gone", "added", "no crate"])
def test_verify_says_what_a_crate_says_wrongly(archive: Path, change: str, capsys: pytest.CaptureFixture[str]):  # noqa: F811
    if change == "changed":
        (archive / "metrics.jsonl").write_text("{}\n")
    elif change == "gone":
        (archive / "metrics.jsonl").unlink()
    elif change == "added":
        (archive / "more.txt").write_text("unsaid")
    else:
        (archive / CRATE_FILE).write_text('{"@graph": []}')
    assert [p.id for p in crate_problems(archive)] == ["SWERL-A025"]
    assert swerl_run(["artifacts", "verify", str(archive)]) == 1
    assert "SWERL-A0" in capsys.readouterr().out


def test_a_crate_that_was_stated_wrongly_is_found_too(archive: Path):  # noqa: F811
    from swerl.artifacts.provenance import seal_archive

    (archive / "more.txt").write_text("stated, and in no crate")
    seal_archive(archive, finished=None, outcome="completed")
    assert [p.id for p in check(archive).problems] == ["SWERL-A025"]
