"""The project's own lock keeps its rules, and each rule's breach is found."""

from __future__ import annotations

import re
import resource
import subprocess
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swerl.environment.exports import clean_environ, export_files, stable_sbom
from swerl.environment.lock import Lock, find_lock, load_lock, marker_holds
from swerl.environment.lockcheck import ENVIRONMENTS, is_current, lock_problems
from swerl.environment.records import load_anchors, merge_anchors, missing_anchors, write_anchors
from swerl.errors import SwerlError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def lock() -> Lock:
    return load_lock(ROOT / "uv.lock")


def broken(tmp_path: Path, lock: Lock, old: str, new: str) -> Lock:
    text = lock.path.read_text()
    assert old in text
    (tmp_path / "uv.lock").write_text(text.replace(old, new, 1))
    return load_lock(tmp_path / "uv.lock")


def test_the_lock_keeps_every_rule(lock):
    assert lock_problems(lock) == []


def test_every_url_is_canonical_and_every_artifact_hashed(lock):
    """Read from the text, so that nothing hides behind the parser."""
    text = lock.path.read_text()
    assert set(re.findall(r'registry = "([^"]+)"', text)) == {"https://pypi.org/simple"}
    assert set(re.findall(r'url = "(https?://[^/"]+)', text)) == {"https://files.pythonhosted.org"}
    assert len(re.findall(r'url = "', text)) == len(re.findall(r'hash = "sha256:[0-9a-f]{64}"', text)) > 500


def test_the_lock_is_current_and_the_check_is_quick(lock):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert is_current(lock)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime <= 1, "processor time of `uv lock --check`"


def test_a_changed_pyproject_is_noticed(lock, tmp_path):
    for name in ("uv.lock", "README.md", "LICENSE"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    package = Path("packages/vllm-cpu-name/pyproject.toml")
    (tmp_path / package).parent.mkdir(parents=True)
    (tmp_path / package).write_bytes((ROOT / package).read_bytes())
    pyproject = (ROOT / "pyproject.toml").read_text()
    (tmp_path / "pyproject.toml").write_text(pyproject.replace('"click>=8.1"', '"click>=99"'))
    (tmp_path / "swerl").mkdir()
    assert not is_current(load_lock(tmp_path / "uv.lock"))


@pytest.mark.parametrize(
    ("old", "new", "id"),
    [
        ('source = { registry = "https://pypi.org/simple" }', 'source = { registry = "https://pypi.org/simple/" }', "SWERL-E020"),
        ("https://files.pythonhosted.org/", "https://mirror.example/", "SWERL-E020"),
        (
            'version = "0.24.0+cpu"\nsource = { directory = "packages',
            'version = "0.24.0+cpu"\nsource = { directory = "/elsewhere',
            "SWERL-E020",
        ),
        ('hash = "sha256:', 'hash = "md5:', "SWERL-E021"),
        ('requires-python = "==3.12.*"', 'requires-python = ">=3.10"', "SWERL-E022"),
        ("supported-markers = [", "other-markers = [", "SWERL-E022"),
        ('    { package = "swerl", extra = "trials" },\n', "", "SWERL-E023"),
        ('name = "nvidia-cuda-nvcc"\nversion = "13.0.88"', 'name = "nvidia-cuda-nvcc"\nversion = "13.2.86"', "SWERL-E024"),
    ],
)
def test_each_breach_is_found(lock, tmp_path, old, new, id):
    assert id in {p.id for p in lock_problems(broken(tmp_path, lock, old, new))}


@pytest.mark.parametrize("extras", [(), ("gpu",), ("cpu",), ("trials",), ("cpu", "dev"), ("gpu", "dev"), ("trials", "dev")])
def test_a_closure_is_what_uv_would_install(lock, extras):
    command = [
        "uv",
        "export",
        "--frozen",
        "--offline",
        "--no-emit-project",
        "--no-emit-local",
        "--no-hashes",
        "--no-header",
        "--no-annotate",
    ]
    words = [word for extra in extras for word in ("--extra", extra)]
    told = subprocess.run([*command, *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    expected = dict(re.findall(r"^([a-z0-9.-]+)==(\S+)", told, re.MULTILINE))
    assert {p.name: p.version for p in lock.closure(extras).values() if p.artifacts} == expected


def test_the_stack_is_pinned(lock):
    gpu, trials = lock.closure(["gpu"]), lock.closure(["trials"])
    pins = {"verl": "0.9.1", "vllm": "0.24.0", "torch": "2.11.0", "transformers": "5.9.0"}
    assert {name: gpu[name].version for name in pins} == pins
    assert trials["harbor"].version == "0.26.0"
    assert "litellm" not in gpu and "litellm" in trials, "Harbor's litellm stays away from the weights and the keys"


def test_extras_that_exclude_each_other_are_refused(lock):
    with pytest.raises(SwerlError, match="SWERL-E016"):
        lock.closure(["gpu", "trials"])
    with pytest.raises(SwerlError, match="SWERL-E015"):
        lock.closure(["tpu"])


def test_no_lock_and_a_broken_lock_are_named(tmp_path):
    with pytest.raises(SwerlError, match="SWERL-E001"):
        load_lock(tmp_path / "uv.lock")
    (tmp_path / "uv.lock").write_text("version = ")
    with pytest.raises(SwerlError, match="no valid TOML"):
        load_lock(tmp_path / "uv.lock")
    (tmp_path / "uv.lock").write_text("version = 9")
    with pytest.raises(SwerlError, match="format 9"):
        load_lock(tmp_path / "uv.lock")


def test_the_lock_is_found_upwards_or_else_beside_the_code(tmp_path: Path):
    assert find_lock(ROOT / "tests" / "environment") == ROOT / "uv.lock"
    (tmp_path / "uv.lock").touch()
    assert find_lock(tmp_path) == tmp_path / "uv.lock"
    assert find_lock(Path("/")) == ROOT / "uv.lock", "the image's working directory lies outside the project"


atoms = st.sampled_from(["extra == 'a'", "extra != 'a'", "extra == 'b'", "sys_platform == 'linux'", "implementation_name == 'pypy'"])
markers = st.recursive(atoms, lambda m: st.builds(lambda x, op, y: f"({x} {op} {y})", m, st.sampled_from(["and", "or"]), m), max_leaves=8)


@given(markers, st.sets(st.sampled_from(["a", "b"])))
def test_markers_mean_what_python_means(marker, active):
    """A marker over one extra is a boolean expression; the reference here replaces each comparison by its value."""
    values = {"sys_platform == 'linux'": True, "implementation_name == 'pypy'": False}
    values |= {f"extra == '{x}'": x in active for x in "ab"} | {"extra != 'a'": "a" not in active}
    expression = marker
    for text, value in values.items():
        expression = expression.replace(text, str(value))
    assert marker_holds(marker, frozenset(active)) == eval(expression)


@pytest.mark.parametrize("marker", ["python_version < '3.13'", "unknown == 'x'", "extra", "extra == 'a' == 'b'"])
def test_a_marker_of_a_new_kind_is_refused(marker):
    with pytest.raises(SwerlError, match="SWERL-E001"):
        marker_holds(marker, frozenset())


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_exports_are_deterministic_and_complete(lock, environment):
    extras = ENVIRONMENTS[environment]
    files = export_files(lock, environment, extras)
    assert files == export_files(lock, environment, extras)
    closure = lock.closure(extras)
    pylock = tomllib.loads(files[f"pylock.{environment}.toml"].decode())
    assert pylock["lock-version"] == "1.0"
    assert {(p["name"], p.get("version")) for p in pylock["packages"] if "directory" not in p} == {
        (p.name, p.version) for p in closure.values() if p.artifacts
    }
    requirements = files[f"requirements.{environment}.txt"].decode()
    hashed = set(re.findall(r"--hash=sha256:([0-9a-f]{64})", requirements))
    assert hashed == {a.sha256 for p in closure.values() for a in p.artifacts}
    assert len(re.findall(r"^\S+==", requirements, re.MULTILINE)) == sum(1 for p in closure.values() if p.artifacts)
    bill = files[f"sbom.{environment}.cdx.json"]
    assert b'"timestamp"' not in bill and b'"bomFormat": "CycloneDX"' in bill
    assert stable_sbom(bill) == bill


def test_exports_do_not_follow_the_environment_of_the_caller(lock, monkeypatch):
    before = export_files(lock, "trials", ("trials",))
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://mirror.example/simple")
    monkeypatch.setenv("UV_INDEX_URL", "https://mirror.example/simple")
    assert export_files(lock, "trials", ("trials",)) == before
    assert clean_environ({"UV_DEFAULT_INDEX": "x", "PIP_INDEX_URL": "x", "PATH": "p", "UV_CACHE_DIR": "c"}) == {
        "PATH": "p",
        "UV_CACHE_DIR": "c",
    }


def test_anchors_cover_what_is_installed_here_and_belong_to_the_lock(lock):
    anchors = load_anchors()
    for extras in (("cpu", "dev"), ("trials", "dev")):
        assert missing_anchors(lock, anchors, lock.closure(extras).values()) == []
    assert merge_anchors(lock, anchors, {}) == dict(sorted(anchors.items())), "records.json holds anchors of another lock"


def test_anchors_survive_writing_and_refuse_two_digests(lock, tmp_path):
    anchors = dict(load_anchors())
    write_anchors(anchors, tmp_path / "records.json")
    assert load_anchors(tmp_path / "records.json") == anchors
    key = "click==" + lock.closure([])["click"].version
    with pytest.raises(SwerlError, match="SWERL-E013"):
        merge_anchors(lock, anchors, {key: (anchors[key][0], "0" * 64)})
