"""Every difference between an environment and its lock is named; an untouched one passes. Each test breaks one thing."""

from __future__ import annotations

import importlib.util
import py_compile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from swerl.environment import pth
from swerl.environment.installed import Environment, read_environment
from swerl.environment.lock import load_lock
from swerl.environment.platforms import Facts, torch_cuda
from swerl.environment.records import load_anchors
from swerl.environment.verify import Report, driver_problems, installed_extras, verify
from swerl.errors import SwerlError

from .conftest import install, record_line

ROOT = Path(__file__).parents[2]


def check(project: Path, anchors: dict[str, tuple[str, str]], extras: tuple[str, ...] = ("one",)) -> Report:
    return verify(read_environment(project / "env"), load_lock(project / "uv.lock"), extras, anchors)


def site(project: Path) -> Path:
    return project / "env" / "lib" / "python3.12" / "site-packages"


def test_an_untouched_environment_is_what_the_lock_says(project, anchors):
    report = check(project, anchors)
    assert report.ok and not report.problems
    assert (report.packages, report.anchored, report.files) == (2, 2, 6)
    assert report.lock_sha256 == load_lock(project / "uv.lock").sha256


def alter(site: Path) -> None:
    (site / "alpha" / "data.bin").write_bytes(b"other")


def alter_with_record(site: Path) -> None:
    """What a RECORD check alone cannot see: the file and its line changed together."""
    (site / "beta_tools.py").write_bytes(b"evil = 1\n")
    record = site / "beta_tools-2.1.dist-info" / "RECORD"
    lines = record.read_text().splitlines(keepends=True)
    record.write_text("".join(record_line("beta_tools.py", b"evil = 1\n") if x.startswith("beta_tools.py") else x for x in lines))


def delete(site: Path) -> None:
    (site / "alpha" / "__init__.py").unlink()


def stray(site: Path) -> None:
    (site / "alpha" / "patched.py").write_text("x = 1\n")


def surplus(site: Path) -> None:
    install(site, "delta", "9", {"delta.py": b""})


def other_version(site: Path) -> None:
    info = site / "alpha-1.0.dist-info"
    for name in ("METADATA", "RECORD"):
        (info / name).write_text((info / name).read_text().replace("Version: 1.0", "Version: 1.1"))


def twice(site: Path) -> None:
    install(site, "alpha", "1.1", {"alpha11.py": b""})


def remove(site: Path) -> None:
    for path in sorted((site / "beta_tools-2.1.dist-info").iterdir()):
        path.unlink()
    (site / "beta_tools-2.1.dist-info").rmdir()
    (site / "beta_tools.py").unlink()


def code_in_pth(site: Path) -> None:
    (site / "zz.pth").write_text("/some/folder\nimport os; os.environ['X'] = '1'\n")


def sitecustomize(site: Path) -> None:
    (site / "sitecustomize.py").write_text("")


def stale_bytecode(site: Path) -> None:
    source = site / "beta_tools.py"
    old = source.read_bytes()
    source.write_bytes(b"def run():\n    return 3\n")
    py_compile.compile(str(source), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    source.write_bytes(old)


def sourceless_bytecode(site: Path) -> None:
    cache = site / "alpha" / "__pycache__"
    cache.mkdir()
    py_compile.compile(str(site / "beta_tools.py"), cfile=str(site / "alpha" / "hidden.pyc"))


@pytest.mark.parametrize(
    ("damage", "id", "named"),
    [
        (alter, "SWERL-E006", "alpha/data.bin"),
        (alter_with_record, "SWERL-E013", "beta-tools 2.1"),
        (delete, "SWERL-E007", "alpha/__init__.py"),
        (stray, "SWERL-E008", "alpha/patched.py"),
        (sourceless_bytecode, "SWERL-E008", "alpha/hidden.pyc"),
        (surplus, "SWERL-E005", "delta 9"),
        (other_version, "SWERL-E004", "alpha is 1.1"),
        (twice, "SWERL-E004", "more than once"),
        (remove, "SWERL-E003", "beta-tools 2.1"),
        (code_in_pth, "SWERL-E009", "zz.pth"),
        (sitecustomize, "SWERL-E009", "sitecustomize.py"),
        (stale_bytecode, "SWERL-E014", "beta_tools"),
    ],
)
def test_each_difference_is_named(project, anchors, damage: Callable[[Path], None], id: str, named: str):
    damage(site(project))
    report = check(project, anchors)
    assert not report.ok
    assert any(p.id == id and named in p.message for p in report.problems), report.problems


def test_fresh_bytecode_of_either_kind_is_no_difference(project, anchors):
    py_compile.compile(str(site(project) / "beta_tools.py"), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    py_compile.compile(str(site(project) / "alpha" / "__init__.py"), invalidation_mode=py_compile.PycInvalidationMode.TIMESTAMP)
    assert check(project, anchors).ok


def test_an_environment_of_the_nix_store_is_compared_by_version_only(project, anchors, monkeypatch):
    alter(site(project))
    monkeypatch.setattr(Environment, "in_store", True)
    report = check(project, anchors)
    assert report.ok and report.files == 0 and [p.id for p in report.problems] == ["SWERL-E027"]
    other_version(site(project))
    assert not check(project, anchors).ok


def test_without_an_anchor_the_report_says_so_and_passes(project):
    report = check(project, {})
    assert report.ok and report.anchored == 0
    assert {p.id for p in report.problems} == {"SWERL-E018"}


def test_an_anchor_of_other_wheels_is_not_used(project, anchors):
    lock = project / "uv.lock"
    lock.write_text(lock.read_text().replace('hash = "sha256:', 'hash = "sha256:00').replace("00", "", 1) + "\n")
    assert check(project, anchors).anchored < 2


def test_python_of_another_minor_is_refused(project, anchors):
    (project / "env" / "pyvenv.cfg").write_text("version_info = 3.11.9\n")
    assert [p.id for p in check(project, anchors).problems] == ["SWERL-E010"]


def test_torch_of_another_cuda_is_refused(project, anchors):
    version = site(project) / "torch" / "version.py"
    version.parent.mkdir()
    version.write_text("from typing import Optional\ncuda: Optional[str] = '12.8'\n")
    assert torch_cuda(site(project)) == "12.8"
    assert "SWERL-E011" in {p.id for p in check(project, anchors).problems}


@pytest.mark.parametrize(
    ("driver", "driver_cuda", "severity"),
    [(None, None, "warning"), ("570.124.06", "12.8", "fatal"), ("580.95.05", None, "fatal"), ("580.95.05", "13.0", None)],
)
def test_driver(driver, driver_cuda, severity):
    found = [p.severity for p in driver_problems(Facts("13.0", driver, driver_cuda))]
    assert found == ([severity] if severity else [])


def test_a_folder_without_packages_is_no_environment(tmp_path):
    with pytest.raises(SwerlError, match="SWERL-E002"):
        read_environment(tmp_path)


def test_the_allowed_pth_line_is_the_locked_one():
    """setuptools brings the only line allowed; with one character changed it is refused."""
    path = ROOT / ".venv" / "train" / "lib" / "python3.12" / "site-packages" / "distutils-precedence.pth"
    (line,) = pth.code_lines(path)
    assert line in pth.ALLOWED_LINES and line + " " not in pth.ALLOWED_LINES


@pytest.mark.trials
def test_the_trials_environment_is_what_the_lock_says():
    _check_real("trials", {"trials"})


@pytest.mark.train
@pytest.mark.slow
def test_the_training_environment_is_what_the_lock_says():
    started = time.process_time()
    _check_real("train", {"cpu"})
    assert time.process_time() - started <= 30, "processor seconds, the threads' included"


def _check_real(name: str, extras: set[str]) -> Report:
    lock = load_lock(ROOT / "uv.lock")
    env = read_environment(ROOT / ".venv" / name)
    chosen = installed_extras(env, lock)
    assert extras <= set(chosen)
    report = verify(env, lock, chosen, load_anchors())
    assert report.ok, [str(p) for p in report.problems]
    assert report.anchored == sum(1 for p in lock.closure(chosen).values() if p.wheels)
    return report


def test_magic_number_is_that_of_the_locked_python():
    """Bytecode checks read this interpreter's magic: the tests run on the Python that the lock is for."""
    assert importlib.util.MAGIC_NUMBER[:2] == b"\xcb\x0d"
