"""The flake, evaluated without network: every output, one environment in image and shell, the hashes of uv.lock. Some wheels are built.

What these tests cannot see: whether nixpkgs has the attributes that the flake names, and whether a build succeeds. nix/verify.sh does that
on a host with network.
"""

from __future__ import annotations

import hashlib
import json
import re
import resource
from pathlib import Path

import pytest

from swerl.environment.installed import read_environment
from swerl.environment.lock import load_lock

from .conftest import ROOT, Nix

ENVIRONMENTS = ("cpu", "gpu", "trials")
SYSTEM = "x86_64-linux"


@pytest.fixture(scope="module")
def derivations(nix: Nix) -> dict[str, str]:
    """Output name to derivation, for everything the flake makes."""
    shells = {f"shell-{name}": drv for name, drv in nix.drvs(f"devShells.{SYSTEM}").items()}
    return nix.drvs(f"packages.{SYSTEM}") | shells


@pytest.mark.parametrize(
    "path", sorted([ROOT / "flake.nix", *(ROOT / "nix").glob("*.nix"), *(ROOT / "tests" / "nix").rglob("*.nix")]), ids=str
)
def test_every_file_parses(nix, path: Path):
    nix.run("nix-instantiate", "--parse", str(path))


def test_the_lock_is_complete_and_stays_as_it_is(nix):
    """No input is at hand, and metadata is told all the same; nothing is written."""
    before = (nix.flake / "flake.lock").read_bytes()
    nix.run("nix", "flake", "metadata", "--no-update-lock-file", f"path:{nix.flake}")
    nix.run("nix", "flake", "lock", f"path:{nix.flake}")
    assert (nix.flake / "flake.lock").read_bytes() == before == (ROOT / "flake.lock").read_bytes()


def test_every_input_is_pinned_by_revision_and_content():
    nodes = {name: node["locked"] for name, node in json.loads((ROOT / "flake.lock").read_text())["nodes"].items() if name != "root"}
    assert sorted(nodes) == ["nixpkgs", "pyproject-build-systems", "pyproject-nix", "uv2nix"]
    for locked in nodes.values():
        assert re.fullmatch(r"[0-9a-f]{40}", locked["rev"]) and locked["narHash"].startswith("sha256-") and locked["type"] == "github"


def test_all_outputs_evaluate_within_ten_seconds(nix):
    """Processor time: what the promise is about, and not what else the machine is doing."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    nix.on_flake("flake", "check", "--no-build")
    shown = json.loads(nix.on_flake("flake", "show", "--json").stdout)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime <= 10
    assert set(shown) == {"apps", "checks", "devShells", "formatter", "legacyPackages", "lib", "packages"}
    assert set(shown["devShells"][SYSTEM]) == {"default", "gpu", "trials"}
    made = {f"{kind}-{name}" for kind in ("env", "image") for name in ENVIRONMENTS}
    assert set(shown["packages"][SYSTEM]) == made | {"default", "swerl", "wheelhouse", "swerl-cpu", "swerl-gpu", "env-verify"}


@pytest.mark.parametrize(
    ("shell", "image", "environment"), [("default", "cpu", "cpu"), ("gpu", "gpu", "gpu"), ("trials", "trials", "trials")]
)
def test_image_and_shell_hold_the_same_environment(nix, derivations, shell, image, environment):
    env = derivations[f"env-{environment}"]
    assert env in nix.closure(derivations[f"shell-{shell}"])
    assert env in nix.closure(derivations[f"image-{image}"])
    assert derivations["env-trials"] in nix.closure(derivations[f"image-{image}"]), "the trial runner's environment goes along"
    others = {derivations[f"env-{e}"] for e in ENVIRONMENTS} - {env, derivations["env-trials"]}
    assert not others & nix.closure(derivations[f"image-{image}"]), "an image holds no other trainer"


def test_the_default_package_is_the_cpu_environment(derivations):
    assert derivations["default"] == derivations["env-cpu"]


def test_the_wheelhouse_has_exactly_the_bytes_of_the_lock(nix, derivations):
    lock = load_lock(ROOT / "uv.lock")
    allowed = {a.filename: a.sha256 for p in lock.packages.values() for a in p.artifacts}
    fetched = {}
    for derivation in json.loads(nix.run("nix", "show-derivation", "--recursive", derivations["wheelhouse"]).stdout).values():
        if derivation["builder"] == "builtin:fetchurl":
            fetched[derivation["env"]["name"]] = derivation["outputs"]["out"]["hash"]
    assert fetched == {name: allowed[name] for name in fetched}
    assert len(fetched) == sum(1 for p in lock.packages.values() if p.artifacts)


def test_the_wheel_taken_is_the_one_that_uv_installs(nix):
    picked = {(p["name"], p["version"]): p["file"] for p in nix.evaluate("lib.picked")}
    lock = load_lock(ROOT / "uv.lock")
    compared = 0
    for root in (".venv/train", ".venv/trials"):
        env = read_environment(ROOT / root)
        for dist in env.distributions:
            package = lock.packages.get((dist.name, dist.version))
            if package is None or len(package.wheels) < 2:
                continue  # with one wheel there is nothing to choose
            text = (env.site_packages / dist.info / "WHEEL").read_text()
            tags = set().union(*(expand(tag) for tag in re.findall(r"^Tag: *(\S+)", text, re.MULTILINE)))
            assert expand(picked[dist.name, dist.version].removesuffix(".whl").split("-", 2)[2]) == tags, dist.name
            compared += 1
    assert compared > 40


def expand(tag: str) -> set[str]:
    python, abi, platform = tag.split("-")
    return {f"{p}-{a}-{f}" for p in python.split(".") for a in abi.split(".") for f in platform.split(".")}


def test_the_gpu_environment_has_the_real_vllm_and_the_cpu_environment_its_name(nix, derivations):
    """uv2nix goes by name, and a local package of the CPU extra is called vllm: without a word it would replace the wheel."""
    (wheel,) = (a.filename for p in load_lock(ROOT / "uv.lock").packages.values() if p.name == "vllm" for a in p.wheels)
    gpu, cpu = nix.closure(derivations["env-gpu"]), nix.closure(derivations["env-cpu"])
    assert any(path.endswith(f"-{wheel}.drv") for path in gpu)
    assert not any(path.endswith(f"-{wheel}.drv") for path in cpu)
    assert any(path.endswith("-vllm-0.24.0+cpu.drv") for path in cpu)


def test_a_page_of_documentation_rebuilds_nothing(fresh_nix):
    before = fresh_nix.drv(f"packages.{SYSTEM}.env-cpu")
    (fresh_nix.flake / "docs").mkdir()
    (fresh_nix.flake / "docs" / "page.md").write_text("text")
    same = fresh_nix.drv(f"packages.{SYSTEM}.swerl")
    (fresh_nix.flake / "swerl" / "new_module.py").write_text("")
    assert fresh_nix.drv(f"packages.{SYSTEM}.swerl") != same
    assert fresh_nix.drv(f"packages.{SYSTEM}.env-cpu") != before


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[torchvision]", "[torchvison]", "names torchvison, which uv.lock does not have"),
        ('wheels = ["nvidia-nvjitlink"]', 'wheels = ["nvidia-nvjitlnk"]', "names nvidia-nvjitlnk, which uv.lock does not have"),
    ],
)
def test_a_misspelt_name_in_the_table_stops_evaluation(fresh_nix, edit, old, new, said):
    edit("nix/elf.toml", old, new)
    done = fresh_nix.on_flake("eval", attribute=f"packages.{SYSTEM}.env-cpu.drvPath", check=False)
    assert done.returncode != 0 and said in done.stderr


def test_the_real_inputs_are_not_needed_for_wheels_and_some_are_built(nix):
    """Fixed-output derivations of three small packages, downloaded from the URLs of the lock and checked by Nix and by us."""
    lock = load_lock(ROOT / "uv.lock")
    for name in ("click", "annotated-types", "orjson"):
        (package,) = (p for p in lock.packages.values() if p.name == name)
        attribute = f"wheels.{name}-{package.version.replace('.', '_')}"
        (built,) = json.loads(nix.on_flake("build", "--no-link", "--json", attribute=attribute).stdout)
        path = Path(built["outputs"]["out"])
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert digest in {w.sha256 for w in package.wheels} and path.name.endswith(".whl")


def test_a_wheel_with_other_bytes_is_refused(fresh_nix):
    lock = load_lock(ROOT / "uv.lock")
    (package,) = (p for p in lock.packages.values() if p.name == "click")
    text = (fresh_nix.flake / "uv.lock").read_text()
    (fresh_nix.flake / "uv.lock").write_text(text.replace(package.wheels[0].sha256, "0" * 64))
    attribute = f"wheels.click-{package.version.replace('.', '_')}"
    done = fresh_nix.on_flake("build", "--no-link", attribute=attribute, check=False)
    assert done.returncode != 0 and "hash mismatch" in done.stderr


def test_what_the_image_tells_the_container(nix):
    labels = nix.evaluate(f"packages.{SYSTEM}.image-gpu.attrs.config")
    environ = dict(entry.split("=", 1) for entry in labels["Env"])
    assert environ["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"
    assert "nvidia/cu13/lib" in environ["LD_LIBRARY_PATH"] and environ["VENV_PATH"] in environ["PATH"]
    assert labels["Labels"]["swerl.lock.sha256"] == load_lock(ROOT / "uv.lock").sha256
    assert labels["User"] != "0:0"
