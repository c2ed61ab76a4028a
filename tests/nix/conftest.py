"""The flake beside stand-ins for its inputs, in a store of its own: no network, no root, nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from swerl.environment.lock import load_lock

ROOT = Path(__file__).parents[2]
SOURCES = ("flake.nix", "flake.lock", "nix", "uv.lock", "pyproject.toml", "README.md", "LICENSE", "packages", "swerl")
INPUTS = {"nixpkgs": "nixpkgs", "pyproject-nix": "pyproject-nix", "uv2nix": "uv2nix", "pyproject-build-systems": "build-systems"}
SETTINGS = """experimental-features = nix-command flakes
sandbox = false
build-users-group =
substituters =
flake-registry =
"""


class Nix:
    """Runs nix commands on a copy of the project's flake."""

    def __init__(self, folder: Path):
        self.folder, self.flake, self.stubs = folder, folder / "flake", folder / "stubs"
        self.flake.mkdir()
        for name in SOURCES:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, self.flake / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(source, self.flake / name)
        shutil.copytree(Path(__file__).with_name("stubs"), self.stubs)
        lock = load_lock(ROOT / "uv.lock")
        project = {name: version for name, version in lock.packages if name == lock.project}
        closures = {
            f"{extra}+dev": {name: p.version for name, p in lock.closure([extra, "dev"]).items()} | project
            for extra in ("cpu", "gpu", "trials")
        }
        (self.stubs / "uv2nix" / "closures.json").write_text(json.dumps(closures))
        (folder / "home").mkdir()
        self.environ = {
            **{k: v for k, v in os.environ.items() if not k.startswith("NIX_")},
            "NIX_CONFIG": SETTINGS,
            "NIX_SSL_CERT_FILE": os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt"),
            "HOME": str(folder / "home"),
            "XDG_CACHE_HOME": str(folder / "cache"),
            **{f"NIX_{name}_DIR": str(folder / "nix" / name.lower()) for name in ("STORE", "STATE", "LOG", "CONF")},
        }

    def run(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(words, env=self.environ, cwd=self.folder, capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, f"{' '.join(words[:4])}: {done.stderr[-3000:]}"
        return done

    def on_flake(self, *words: str, attribute: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        """`nix WORDS path:flake#attribute` with the stand-ins."""
        overrides = [w for name, stub in INPUTS.items() for w in ("--override-input", name, f"path:{self.stubs / stub}")]
        target = f"path:{self.flake}" + (f"#{attribute}" if attribute else "")
        return self.run("nix", *words, target, *overrides, "--no-write-lock-file", check=check)

    def evaluate(self, attribute: str) -> object:
        return json.loads(self.on_flake("eval", "--json", attribute=attribute).stdout)

    def drvs(self, attribute: str) -> dict[str, str]:
        """Name to derivation of a whole set, in one evaluation."""
        return json.loads(self.on_flake("eval", "--json", "--apply", "builtins.mapAttrs (_: d: d.drvPath)", attribute=attribute).stdout)

    def drv(self, attribute: str) -> str:
        return str(self.evaluate(f"{attribute}.drvPath"))

    def closure(self, drv: str) -> set[str]:
        return set(self.run("nix-store", "--query", "--requisites", drv).stdout.split())


def make_nix(folder: Path) -> Nix:
    if shutil.which("nix") is None:
        pytest.fail("nix is not installed: `apt-get install --yes --no-install-recommends nix-bin`", pytrace=False)
    return Nix(folder)


@pytest.fixture(scope="session")
def nix(tmp_path_factory: pytest.TempPathFactory) -> Nix:
    return make_nix(tmp_path_factory.mktemp("nix"))


@pytest.fixture
def fresh_nix(tmp_path: Path) -> Nix:
    """A copy of its own, for tests that change the flake's files."""
    return make_nix(tmp_path)


@pytest.fixture
def edit(fresh_nix: Nix) -> Callable[[str, str, str], None]:
    def change(name: str, old: str, new: str) -> None:
        path = fresh_nix.flake / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return change
