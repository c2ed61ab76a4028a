"""Sealed environments: made twice, with other histories, the same bytes."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import py_compile
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SEAL = Path(__file__).parents[2] / "containers" / "seal.py"
SETS = "\n".join(f"def f{n}(x):\n    return x in {{'some-{n}', 'other-{n}'}} or x in {{'some-{n}', 'other-{n}'}}\n" for n in range(40))


def make(root: Path, time_s: int) -> Path:
    """An environment with one built package; what the installer noted of time differs."""
    site = root / "lib" / "python3.12" / "site-packages"
    info = site / "built-1.dist-info"
    info.mkdir(parents=True)
    (info / "uv_cache.json").write_text(f'{{"timestamp": {time_s}}}')
    (info / "RECORD").write_text(f"built.py,sha256=x,1\n{info.name}/uv_cache.json,sha256={time_s},9\n{info.name}/RECORD,,\n")
    (site / "built.py").write_text("VALUE = {'a', 'b'}\n")
    (site / "deep").mkdir()
    (site / "deep" / "sets.py").write_text(SETS)
    return site


def seal(*folders: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SEAL), *map(str, folders)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environ})


def digests(root: Path) -> dict[str, str]:
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(root.rglob("*")) if p.is_file()}


def test_two_installations_become_one(tmp_path: Path):
    found = []
    for seed in ("1", "2"):
        root = tmp_path / "env"
        site = make(root, int(seed))
        # What a parallel installer may leave: bytecode by time, and bytecode of another text.
        py_compile.compile(str(site / "built.py"), doraise=True)
        said = seal(root, PYTHONHASHSEED=seed)
        assert said.returncode == 0 and "2 files compiled, 1 notes of time removed" in said.stdout, said
        found.append(digests(root))
        shutil.rmtree(root)
    assert found[0] == found[1]
    record = "lib/python3.12/site-packages/built-1.dist-info/RECORD"
    assert record in found[0] and not any("uv_cache" in name for name in found[0])
    assert len([name for name in found[0] if name.endswith(".pyc")]) == 2


def test_the_record_keeps_its_other_lines(tmp_path: Path):
    site = make(tmp_path / "env", 1)
    seal(tmp_path / "env")
    assert (site / "built-1.dist-info" / "RECORD").read_text() == "built.py,sha256=x,1\nbuilt-1.dist-info/RECORD,,\n"


def test_a_second_call_writes_nothing_and_a_changed_source_is_compiled_again(tmp_path: Path):
    site = make(tmp_path / "env", 1)
    seal(tmp_path / "env")
    before = {path: path.stat().st_mtime_ns for path in site.rglob("*")}
    assert "0 files compiled, 0 notes" in seal(tmp_path / "env").stdout
    assert before == {path: path.stat().st_mtime_ns for path in site.rglob("*")}
    (site / "built.py").write_text("VALUE = 2\n")
    assert "1 files compiled" in seal(tmp_path / "env").stdout
    assert subprocess.run([sys.executable, "-c", "import built; print(built.VALUE)"], cwd=site, capture_output=True).stdout == b"2\n"


@pytest.mark.parametrize("folders", [[], ["nothing"]])
def test_what_is_no_environment_is_named(tmp_path: Path, folders: list[str]):
    said = seal(*(tmp_path / name for name in folders))
    assert said.returncode != 0 and "seal.py: " in said.stderr


def test_a_file_that_does_not_compile_is_named(tmp_path: Path):
    (make(tmp_path / "env", 1) / "wrong.py").write_text("def (")
    said = seal(tmp_path / "env")
    assert said.returncode != 0 and "wrong.py" in said.stderr


def test_a_library_without_bytecode_is_compiled_once_and_its_tests_are_not(tmp_path: Path):
    spec = importlib.util.spec_from_file_location("seal", SEAL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, text in {"one.py": "A = 1", "test/bad.py": "def (", "site-packages/two.py": "B = 2", "three/__init__.py": "C = 3"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    py_compile.compile(str(tmp_path / "one.py"), doraise=True)
    kept = next((tmp_path / "__pycache__").iterdir()).read_bytes()
    assert module.compile_library(tmp_path) == 1 and module.compile_library(tmp_path) == 0
    assert next((tmp_path / "__pycache__").iterdir()).read_bytes() == kept, "the base's own bytecode is the base's"
    assert list((tmp_path / "three" / "__pycache__").iterdir())
