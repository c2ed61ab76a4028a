"""nix/elf.toml against what the ELF files really need: nothing missing, nothing superfluous, every provider able to provide."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from swerl.environment.elf import read_dynamic
from swerl.environment.installed import read_environment
from swerl.environment.lock import load_lock

from .elf import scan

ROOT = Path(__file__).parents[2]
FACTS = json.loads(Path(__file__).with_name("elf_needs.json").read_text())
TABLE = tomllib.loads((ROOT / "nix" / "elf.toml").read_text())


def by_name(facts: dict[str, list[str]]) -> dict[str, set[str]]:
    """Without versions: forks of one package are met together."""
    merged: dict[str, set[str]] = {}
    for key, names in facts.items():
        merged.setdefault(key.split("==")[0], set()).update(names)
    return merged


NEEDS, PROVIDES = by_name(FACTS["needs"]), by_name(FACTS["provides"])


def met(name: str) -> set[str]:
    """Sonames that the table's entry of a package accounts for."""
    entry = TABLE.get(name, {})
    from_wheels = set().union(*(PROVIDES.get(w, set()) for w in entry.get("wheels", ())), set())
    from_system = {soname for sonames in entry.get("nixpkgs", {}).values() for soname in sonames}
    return from_wheels | from_system | set(entry.get("driver", ())) | set(entry.get("ignore", ()))


@pytest.mark.parametrize("name", sorted(NEEDS))
def test_every_need_is_met(name):
    assert NEEDS[name] - met(name) == set()


@pytest.mark.parametrize("name", sorted(TABLE))
def test_no_entry_is_superfluous(name):
    entry, needs = TABLE[name], NEEDS.get(name, set())
    for wheel in entry.get("wheels", ()):
        assert PROVIDES.get(wheel, set()) & needs, f"{wheel} provides nothing that {name} needs"
    listed = (
        {s for sonames in entry.get("nixpkgs", {}).values() for s in sonames} | set(entry.get("driver", ())) | set(entry.get("ignore", ()))
    )
    assert listed <= needs
    assert set(entry) <= {"wheels", "nixpkgs", "driver", "ignore"}


def test_only_the_driver_is_left_to_the_driver():
    assert {s for entry in TABLE.values() for s in entry.get("driver", ())} == {"libcuda.so.1"}


def test_the_facts_belong_to_the_lock():
    """A new version of a package asks for a new scan: `python tests/nix/elf.py` with the three environments."""
    locked = {f"{name}=={version}" for name, version in load_lock(ROOT / "uv.lock").packages}
    assert set(FACTS["needs"]) | set(FACTS["provides"]) <= locked


@pytest.mark.train
@pytest.mark.slow
def test_the_facts_are_those_of_the_installed_environments():
    envs = [read_environment(ROOT / ".venv" / name) for name in ("train", "trials")]
    found = scan(envs)
    present = {f"{d.name}=={d.version}" for env in envs for d in env.distributions}
    assert found["needs"] == {key: names for key, names in FACTS["needs"].items() if key in present}
    for key, names in found["provides"].items():
        assert set(names) <= set(FACTS["provides"][key])


def test_the_reader_knows_an_elf_file_from_another(tmp_path):
    (tmp_path / "text.so").write_text("INPUT(libc.so.6)")
    assert read_dynamic(tmp_path / "text.so") is None
    shell = read_dynamic(Path("/bin/sh").resolve())
    assert shell is not None and "libc.so.6" in shell.needed
