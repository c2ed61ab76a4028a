"""Anchors against the index: a wheel fetched by the lock's hash has the RECORD that records.json says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from swerl.environment.exports import clean_environ
from swerl.environment.installed import read_environment
from swerl.environment.lock import load_lock
from swerl.environment.records import load_anchors

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_anchors_are_those_of_wheels_that_the_lock_hashes(tmp_path):
    """Installed anew into an empty environment with --require-hashes and no cache: the same digests as in the file."""
    closure = load_lock(ROOT / "uv.lock").closure([])
    chosen = [closure[name] for name in ("click", "orjson", "markdown-it-py", "multidict")]
    lines = [f"{p.name}=={p.version} " + " ".join(f"--hash=sha256:{a.sha256}" for a in p.artifacts) for p in chosen]
    (tmp_path / "requirements.txt").write_text("\n".join(lines) + "\n")
    env, quiet = tmp_path / "env", {"check": True, "cwd": tmp_path, "env": clean_environ(os.environ)}
    subprocess.run(["uv", "venv", "--quiet", "--no-config", "--python", sys.executable, str(env)], **quiet)
    options = ["--quiet", "--no-config", "--no-cache", "--no-deps", "--require-hashes", "--only-binary", ":all:", "--python", str(env)]
    subprocess.run(["uv", "pip", "install", *options, "-r", str(tmp_path / "requirements.txt")], **quiet)
    anchors = load_anchors()
    found = {f"{d.name}=={d.version}": d.record_sha256() for d in read_environment(env).distributions}
    assert found == {key: anchors[key][1] for key in found} and len(found) == len(chosen)
