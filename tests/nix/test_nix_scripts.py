"""nix/driver.sh links the driver's libraries and nothing else; nix/verify.sh records what was not run."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def driver(tmp_path: Path) -> Path:
    folder = tmp_path / "driver"
    folder.mkdir()
    for name in (
        "libcuda.so.1",
        "libcuda.so.580.95.05",
        "libnvidia-ml.so.1",
        "libnvidia-ptxjitcompiler.so.1",
        "libc.so.6",
        "libGLX_nvidia.so.0",
    ):
        (folder / name).write_bytes(b"")
    return folder


def source_driver(tmp_path: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    shown = "".join(f'; echo "${{{name}:-none}}"' for name in ("SWERL_DRIVER_LIBS", "LD_LIBRARY_PATH", "TRITON_LIBCUDA_PATH"))
    script = f"set -eu; . {ROOT / 'nix' / 'driver.sh'}{shown}"
    clean = {"PATH": os.environ["PATH"], "HOME": str(tmp_path / "home")}
    return subprocess.run(["bash", "-c", script], env=clean | environ, capture_output=True, text=True, check=True)


def test_only_the_drivers_libraries_are_linked(tmp_path, driver):
    told = source_driver(tmp_path, SWERL_DRIVER_DIR=str(driver), SWERL_CUDA_LIBS="/cuda/lib", LD_LIBRARY_PATH="/mine").stdout.split("\n")
    libs, path, triton = told[:3]
    assert sorted(p.name for p in Path(libs).iterdir()) == [
        "libcuda.so.1",
        "libcuda.so.580.95.05",
        "libnvidia-ml.so.1",
        "libnvidia-ptxjitcompiler.so.1",
    ]
    assert path == f"{libs}:/cuda/lib:/mine" and triton == libs
    assert all(p.resolve().parent == driver for p in Path(libs).iterdir())


def test_a_new_driver_replaces_the_links_of_the_old_one(tmp_path, driver):
    source_driver(tmp_path, SWERL_DRIVER_DIR=str(driver))
    (driver / "libcuda.so.580.95.05").rename(driver / "libcuda.so.590.1")
    libs = source_driver(tmp_path, SWERL_DRIVER_DIR=str(driver)).stdout.split("\n")[0]
    assert (Path(libs) / "libcuda.so.590.1").exists() and not (Path(libs) / "libcuda.so.580.95.05").is_symlink()


def test_without_a_driver_the_shell_opens_and_says_so(tmp_path):
    if Path("/proc/driver/nvidia/version").exists():
        pytest.fail("this test is for a host without an NVIDIA driver", pytrace=False)
    done = source_driver(tmp_path)
    assert done.stdout.split() == ["none", "none", "none"] and "no libcuda.so.1" in done.stderr


def verify(tmp_path: Path, *words: str, path: str = "/usr/bin:/bin") -> tuple[int, list[dict]]:
    record = tmp_path / "record.jsonl"
    command = ["bash", str(ROOT / "nix" / "verify.sh"), "--record", str(record), "--logs", str(tmp_path / "logs"), *words]
    done = subprocess.run(command, env={"PATH": path, "HOME": str(tmp_path)}, capture_output=True, text=True, check=False)
    return done.returncode, [json.loads(line) for line in record.read_text().splitlines()]


def test_the_record_says_what_was_not_run(tmp_path):
    code, lines = verify(tmp_path, "--not-run", "no network")
    assert code == 1
    head, steps = lines[0], lines[1:]
    assert len(head["lock"]) == 64 and len(steps) > 10
    assert {(s["state"], s["detail"]) for s in steps} == {("not-run", "no network")}


def fake_nix(tmp_path: Path, body: str) -> str:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nix").write_text(f"#!/bin/sh\n{body}\n")
    (tmp_path / "bin" / "nix").chmod(0o755)
    return f"{tmp_path / 'bin'}:/usr/bin:/bin"


def test_a_failed_step_takes_along_only_what_needs_it(tmp_path):
    path = fake_nix(tmp_path, 'case "$*" in *wheelhouse*) echo "error: no such attribute" >&2; exit 1;; *--version*) echo "nix 2";; esac')
    code, lines = verify(tmp_path, "inputs", "evaluate", "wheelhouse", path=path)
    states = {line["step"]: (line["state"], line["detail"]) for line in lines[1:]}
    assert code == 1
    assert states["inputs"][0] == states["evaluate"][0] == "passed"
    assert states["wheelhouse"] == ("failed", "error: no such attribute")
    assert states["image-gpu"] == ("not-run", "not asked for")


def test_what_needs_a_failed_step_is_not_run(tmp_path):
    path = fake_nix(tmp_path, 'case "$*" in *archive*) echo "error: unable to download" >&2; exit 1;; esac')
    code, lines = verify(tmp_path, path=path)
    states = {line["step"]: line["state"] for line in lines[1:]}
    assert code == 1 and states.pop("inputs") == "failed"
    assert set(states.values()) == {"not-run"}


def test_the_committed_record_claims_nothing_for_another_lock():
    """docs/results/nix.jsonl is written by nix/verify.sh: a step that passed, passed for the locks whose hashes the record names."""
    head, *steps = (json.loads(line) for line in (ROOT / "docs" / "results" / "nix.jsonl").read_text().splitlines())
    assert len(steps) > 10
    if any(step["state"] == "passed" for step in steps):
        for name, key in (("uv.lock", "lock"), ("flake.lock", "flake_lock")):
            assert head[key] == hashlib.sha256((ROOT / name).read_bytes()).hexdigest(), f"run nix/verify.sh again: {name} has changed"
