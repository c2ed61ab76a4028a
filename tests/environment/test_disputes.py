"""Files that packages dispute: found from RECORDs, decided in pyproject.toml, the same environment whatever was installed last."""

from __future__ import annotations

import py_compile
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from swerl.cli import env_check
from swerl.cli.env import env
from swerl.environment import disputes
from swerl.environment.bundle import plan
from swerl.environment.installed import Environment, read_environment
from swerl.environment.lock import load_lock
from swerl.environment.records import anchors_of
from swerl.environment.verify import Report, verify, verify_records
from swerl.errors import SwerlError

from .conftest import record_line

SCRIPT = Path(__file__).parents[2] / "scripts" / "leave_out.py"
UP = "../../../lib/python3.12"
CONTENTS = {"alpha-1.0": b"a = 1\n", "beta_tools-2.1": b"a = 2\n"}


def site(project: Path) -> Path:
    return project / "env/lib/python3.12/site-packages"


def bring(project: Path, path: str, contents: dict[str, bytes], last: str) -> None:
    """Each distribution records the path with its content; on disk is what ``last`` installed."""
    for dist, content in contents.items():
        record = site(project) / f"{dist}.dist-info" / "RECORD"
        record.write_text(record.read_text() + record_line(path, content))
    target = site(project) / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(contents[last])


def decide(project: Path, *names: str) -> None:
    (project / "pyproject.toml").write_text(f"[tool.swerl]\nleft-out = {list(names)!r}\n")


def leave_out(project: Path) -> subprocess.CompletedProcess[str]:
    """The project's own script, run in the project."""
    script = project / "scripts" / "leave_out.py"
    script.parent.mkdir(exist_ok=True)
    shutil.copy(SCRIPT, script)
    return subprocess.run([sys.executable, str(script), str(project / "env")], capture_output=True, text=True, check=False)


def environment(project: Path) -> Environment:
    return read_environment(project / "env")


def check(project: Path) -> Report:
    lock, found = load_lock(project / "uv.lock"), environment(project)
    return verify(found, lock, ["one"], anchors_of(found, lock))


@pytest.mark.parametrize("last", CONTENTS)
@pytest.mark.parametrize("path", ["build_backend.py", "alpha/kernel.so", "../../../bin/tool", f"{UP}/site-packages/other.py"])
def test_different_content_under_one_name_is_refused_whoever_came_last(project, path, last):
    bring(project, path, CONTENTS, last)
    lock = load_lock(project / "uv.lock")
    for found in (check(project).problems, verify_records(environment(project), lock, ["one"], {})):
        (problem,) = [p for p in found if p.id == "SWERL-E026"]
        assert "alpha and beta-tools" in problem.message and Path(path).name in problem.message
        assert not {"SWERL-E006", "SWERL-E007"} & {p.id for p in found}


def test_two_spellings_are_one_file(project):
    """A wheel's data folder may lay a file beside another wheel's; only one can be there."""
    bring(project, "other.py", {"alpha-1.0": b"a = 1\n"}, "alpha-1.0")
    bring(project, f"{UP}/site-packages/other.py", {"beta_tools-2.1": b"a = 2\n"}, "beta_tools-2.1")
    assert list(disputes.disputed(disputes.claims(environment(project)), ())) == ["other.py"]


def test_the_same_content_is_no_dispute(project):
    bring(project, "shared/__init__.py", dict.fromkeys(CONTENTS, b"\n"), "alpha-1.0")
    assert check(project).ok


def test_what_is_left_out_makes_every_order_of_installation_one_environment(project):
    decide(project, "build_backend.py")
    for last in CONTENTS:
        target = site(project) / "build_backend.py"
        if not target.exists() and last == "alpha-1.0":
            bring(project, "build_backend.py", CONTENTS, last)
        target.write_bytes(CONTENTS[last])
        py_compile.compile(str(target), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
        assert [p.id for p in check(project).problems] == ["SWERL-E028"], "as installed, the file is there"
        assert "build_backend.py is left out" in leave_out(project).stdout
        assert check(project).ok and not list(site(project).rglob("build_backend*"))
    assert leave_out(project).stdout == ""


def test_the_decision_is_for_one_path(project):
    """The same name elsewhere is another file."""
    decide(project, "build_backend.py")
    bring(project, "alpha/build_backend.py", CONTENTS, "alpha-1.0")
    assert [p.id for p in check(project).problems] == ["SWERL-E026"]


@pytest.mark.parametrize("there", [True, False])
def test_a_bundle_has_no_file_that_is_left_out(project, there):
    decide(project, "build_backend.py")
    bring(project, "build_backend.py", CONTENTS, "alpha-1.0")
    if not there:
        leave_out(project)
    planned = plan(load_lock(project / "uv.lock"), {"train": (environment(project), ["one"])})
    assert planned.items and not [i.target for i in planned.items if "build_backend" in i.target]


def test_an_undecided_file_is_neither_packed_nor_anchored(project, monkeypatch):
    monkeypatch.setattr(env_check, "write_anchors", lambda anchors: pytest.fail("anchors of an undecided environment"))
    bring(project, "data.bin", CONTENTS, "alpha-1.0")
    with pytest.raises(SwerlError, match="SWERL-E026"):
        plan(load_lock(project / "uv.lock"), {"train": (environment(project), ["one"])})
    told = CliRunner().invoke(env, ["records", "--write", "--env", str(project / "env"), "--lock", str(project / "uv.lock")])
    assert told.exit_code != 0 and "SWERL-E026" in f"{told.output}{told.exception}"


@pytest.mark.parametrize("name", ["../../../../kept", "/kept", "", "alpha/../../kept", "alpha//x"])
def test_the_script_deletes_nothing_outside_site_packages(project, name):
    kept = project / "kept"
    kept.write_text("mine")
    decide(project, name.replace("/kept", str(kept)) if name == "/kept" else name)
    done = leave_out(project)
    assert done.returncode != 0 and "no path inside site-packages" in done.stderr and kept.read_text() == "mine"
