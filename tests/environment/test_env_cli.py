"""The verbs: what they print, as text and as data, and their exit codes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from swerl.cli import run as swerl_run
from swerl.environment import inventory
from swerl.environment.installed import read_environment

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Told:
    exit_code: int
    output: str


@pytest.fixture
def run(monkeypatch, capsys):
    """The command line as a user meets it: its exit code and all that it printed."""
    monkeypatch.chdir(ROOT)

    def call(*words: object) -> Told:
        capsys.readouterr()
        try:
            code = swerl_run(["env", *map(str, words)])
        except SystemExit as end:
            code = int(end.code or 0)
        told = capsys.readouterr()
        return Told(code, told.out + told.err)

    return call


def test_verify_names_a_difference_and_exits_1(run, project):
    lock, env = project / "uv.lock", project / "env"
    fine = run("verify", "--env", env, "--lock", lock)
    assert fine.exit_code == 0 and "is what the lock says" in fine.output and "extras one" in fine.output
    (env / "lib" / "python3.12" / "site-packages" / "beta_tools.py").write_text("changed")
    bad = run("verify", "--env", env, "--lock", lock, "--json")
    assert bad.exit_code == 1
    (report,) = json.loads(bad.output)
    assert [p["id"] for p in report["problems"] if p["severity"] == "fatal"] == ["SWERL-E006"] and report["ok"] is False


def test_verify_looks_at_all_environments_and_not_at_the_installers(run, project):
    for name in ("train", "uv"):
        shutil.copytree(project / "env", project / ".venv" / name)
    (project / ".venv" / "uv" / "lib" / "python3.12" / "site-packages" / "beta_tools.py").write_text("changed")
    told = run("verify", "--lock", project / "uv.lock")
    assert told.exit_code == 0 and ".venv/train is what the lock says" in told.output and ".venv/uv" not in told.output


def test_verify_without_an_environment_says_what_to_do(run, project):
    result = run("verify", "--lock", project / "uv.lock")
    assert result.exit_code == 1 and "SWERL-E002" in result.output and "make setup" in result.output


def test_lock_check(run):
    assert "is sound" in run("lock-check").output
    assert json.loads(run("lock-check", "--json").output)["environments"] == ["gpu", "cpu", "trials"]


def test_export_writes_nine_files(run, tmp_path):
    assert run("export", "--out", tmp_path).exit_code == 0
    assert len(list(tmp_path.iterdir())) == 9


def test_the_inventory_script_runs_alone_and_agrees_with_the_environment(run, tmp_path, project):
    """Printed to a file, run by a Python that has no swerl on its path, it digests as the project does."""
    script = tmp_path / "inventory.py"
    script.write_text(run("inventory", "--script").output)
    site = project / "env" / "lib" / "python3.12" / "site-packages"
    done = subprocess.run(
        [sys.executable, "-S", "-E", str(script)], capture_output=True, check=True, cwd=tmp_path, text=True
    )  # fmt: skip
    assert json.loads(done.stdout)["python"].startswith("3.12.")
    found = inventory.inventory([str(site)])
    env = read_environment(project / "env")
    assert {(n, d["version"], d["record"]) for n, d in found["distributions"].items()} == {
        (d.name, d.version, d.record_sha256()) for d in env.distributions
    }
    assert found["unreadable"] == []


def test_the_inventory_names_what_it_cannot_read(project):
    site = project / "env" / "lib" / "python3.12" / "site-packages"
    (site / "alpha-1.0.dist-info" / "RECORD").unlink()
    found = inventory.inventory([str(site)])
    assert list(found["distributions"]) == ["beta-tools"]
    assert found["unreadable"][0]["path"].endswith("alpha-1.0.dist-info")


def test_nothing_heavy_is_imported():
    heavy = ["torch", "vllm", "ray", "verl", "transformers", "wandb", "harbor", "litellm", "numpy", "pyarrow"]
    code = f"import sys, swerl.cli.env; print([m for m in {heavy!r} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
