"""Statements: in-toto and SLSA by their published shape, every change found, signatures that only the right key opens."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import jsonschema_rs
import pytest

from swerl.artifacts.gather import gather
from swerl.artifacts.provenance import ENVELOPE_FILE, STATEMENT_FILE, check, seal_run, sign_folder
from swerl.artifacts.signing import make_key, opened, sign
from swerl.cli import run as swerl_run
from swerl.errors import SwerlError
from swerl.report import add_report

from .test_gather import make_run  # noqa: F401 - a fixture

DIGEST = {"type": "object", "minProperties": 1, "additionalProperties": {"type": "string", "pattern": "^[0-9a-f]{40,64}$"}}
RESOURCE = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "uri": {"type": "string"}, "digest": DIGEST, "annotations": {"type": "object"}},
    "additionalProperties": False,
}
# in-toto Statement v1 and SLSA provenance v1: the fields that their specifications require.
SHAPE = {
    "type": "object",
    "required": ["_type", "subject", "predicateType", "predicate"],
    "additionalProperties": False,
    "properties": {
        "_type": {"const": "https://in-toto.io/Statement/v1"},
        "predicateType": {"const": "https://slsa.dev/provenance/v1"},
        "subject": {"type": "array", "minItems": 1, "items": {**RESOURCE, "required": ["name", "digest"]}},
        "predicate": {
            "type": "object",
            "required": ["buildDefinition", "runDetails"],
            "properties": {
                "buildDefinition": {
                    "type": "object",
                    "required": ["buildType", "externalParameters"],
                    "properties": {"resolvedDependencies": {"type": "array", "items": {**RESOURCE, "minProperties": 2}}},
                },
                "runDetails": {"type": "object", "required": ["builder"], "properties": {"builder": {"required": ["id"]}}},
            },
        },
    },
}


@pytest.fixture
def archive(make_run, tmp_path: Path) -> Path:  # noqa: F811
    return gather(make_run().root, report=add_report, artifacts_dir=tmp_path / "artifacts")


def test_an_archive_is_gathered_with_a_statement_of_its_every_file(archive):
    found = check(archive)
    assert not found.problems and found.subjects > 8
    jsonschema_rs.validator_for(SHAPE).validate(found.statement)
    assert found.statement["predicate"]["runDetails"]["byproducts"][0]["annotations"] == {"state": "completed"}


def test_what_went_in_is_named_by_digest(archive):
    definition = check(archive).statement["predicate"]["buildDefinition"]
    names = {entry["name"] for entry in definition["resolvedDependencies"]}
    assert {"source", "uv.lock", "flake.lock", "config.schema.json", "model/config.json"} <= names
    assert {"index/train", "index/val", "tasks/train", "tasks/val"} <= names
    assert {"seeds", "machine", "environ", "image"} <= definition["internalParameters"]["attempts"][0]["situation"].keys()


def change(archive: Path) -> str:
    (archive / "results.json").write_text("{}")
    return "results.json has other content"


def remove(archive: Path) -> str:
    (archive / "metrics.jsonl").unlink()
    return "metrics.jsonl is missing"


def add(archive: Path) -> str:
    (archive / "logs" / "more.log").write_text("")
    return "logs/more.log is in no statement"


@pytest.mark.parametrize("alter", [change, remove, add])
def test_every_change_is_named(archive, alter, capsys):
    said = alter(archive)
    (problem,) = check(archive).problems
    assert problem.id == "SWERL-A013" and said in problem.message
    assert swerl_run(["artifacts", "verify", str(archive)]) == 1
    assert said in capsys.readouterr().out


def test_a_signed_archive_opens_with_its_key_alone(archive, tmp_path, capsys):
    for name in ("mine", "other"):
        assert swerl_run(["artifacts", "key", str(tmp_path / name)]) == 0
    assert (tmp_path / "mine").stat().st_mode & 0o777 == 0o600
    assert swerl_run(["artifacts", "sign", str(archive), "--key", str(tmp_path / "mine")]) == 0
    assert swerl_run(["artifacts", "verify", str(archive), "--key", str(tmp_path / "mine.pub")]) == 0
    assert "signed by" in capsys.readouterr().out
    with pytest.raises(SwerlError, match="SWERL-A012"):
        check(archive, tmp_path / "other.pub")
    statement = json.loads((archive / STATEMENT_FILE).read_text())
    statement["predicate"]["runDetails"]["builder"]["id"] = "somebody else"
    (archive / STATEMENT_FILE).write_text(json.dumps(statement))
    assert [p.id for p in check(archive, tmp_path / "mine.pub").problems] == ["SWERL-A012"]
    assert [p.id for p in check(archive).problems] == ["SWERL-A012"], "without a key too: the two files disagree"


def test_an_altered_envelope_and_a_missing_one_are_refused(archive, tmp_path):
    public = make_key(tmp_path / "key")
    with pytest.raises(SwerlError, match="SWERL-A010"):
        check(archive, public)
    sign_folder(archive, tmp_path / "key")
    envelope = json.loads((archive / ENVELOPE_FILE).read_text())
    envelope["payload"] = envelope["payload"][:-8] + "AAAA" + envelope["payload"][-4:]
    (archive / ENVELOPE_FILE).write_text(json.dumps(envelope))
    with pytest.raises(SwerlError, match="SWERL-A012"):
        check(archive, public)


def test_openssl_agrees_with_the_signature(tmp_path):
    """The envelope is DSSE: another implementation of Ed25519 verifies the bytes that the protocol says are signed."""
    import base64

    public = make_key(tmp_path / "key")
    envelope = sign({"_type": "x"}, tmp_path / "key")
    body = base64.b64decode(envelope["payload"])
    kind = envelope["payloadType"].encode()
    (tmp_path / "signed").write_bytes(b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(body), body))
    (tmp_path / "sig").write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))
    command = [
        "openssl",
        "pkeyutl",
        "-verify",
        "-pubin",
        "-inkey",
        str(public),
        "-rawin",
        "-in",
        tmp_path / "signed",
        "-sigfile",
        tmp_path / "sig",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no openssl here")
    assert done.returncode == 0, done.stderr
    assert opened(envelope, public) == {"_type": "x"}


def test_a_key_is_never_replaced_and_another_file_is_none(tmp_path):
    make_key(tmp_path / "key")
    with pytest.raises(SwerlError, match=r"SWERL-A011.*exists"):
        make_key(tmp_path / "key")
    (tmp_path / "text").write_text("no key")
    with pytest.raises(SwerlError, match="SWERL-A011"):
        sign({}, tmp_path / "text")


def test_a_runs_directory_is_stated_too_and_journals_count(make_run):  # noqa: F811
    run = make_run()
    seal_run(run, finished=None, outcome="running")
    found = check(run.root)
    names = {entry["name"] for entry in found.statement["subject"]}
    assert not found.problems and {"metrics.jsonl", "trials/journal.jsonl", "checkpoints/global_step_8/swerl.json"} <= names
    with run.trials_journal.open("a") as file:
        file.write("{}\n")
    assert [p.message for p in check(run.root).problems] == ["trials/journal.jsonl has other content than was stated"]


def test_gathering_again_gives_the_same_archive_with_its_signature(make_run, tmp_path):  # noqa: F811
    run = make_run()
    first = gather(run.root, report=add_report, artifacts_dir=tmp_path / "artifacts")
    make_key(tmp_path / "key")
    sign_folder(first, tmp_path / "key")
    assert gather(run.root, report=add_report, artifacts_dir=tmp_path / "artifacts") == first and (first / ENVELOPE_FILE).exists()
