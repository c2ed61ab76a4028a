"""verl's own configuration keys, read from the verl that is installed in the run's environment.

Composing takes an interpreter with verl's packages (about a second; verl itself is not imported), so the answer is kept in
``build/verl-keys-<version>.json`` of the project, under the version of verl it was read from.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from swerl.config.schema import PROJECT_ROOT
from swerl.errors import fail
from swerl.record.rundir import write_atomic

_TIMEOUT_S = 120

# Runs in the other interpreter: prints {"version", "values"} with unresolved interpolations as text.
_COMPOSE = """
import importlib.metadata, importlib.util, json, sys
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
root = importlib.util.find_spec("verl").submodule_search_locations[0]
with initialize_config_dir(f"{root}/trainer/config", version_base=None):
    config = compose("ppo_trainer", overrides=json.loads(sys.argv[1]))
print(json.dumps({"version": importlib.metadata.version("verl"), "values": OmegaConf.to_container(config, resolve=False)}))
"""


@dataclass(frozen=True, slots=True)
class VerlKeys:
    """``leaves``: every key with a value; ``groups``: every mapping."""

    version: str
    leaves: frozenset[str]
    groups: frozenset[str]


def compose(python: Path, overrides: list[str]) -> Mapping[str, Any]:
    """verl's configuration with ``overrides``, composed by the interpreter ``python``. Raises C016 with Hydra's own words."""
    command = [str(python), "-c", _COMPOSE, orjson.dumps(overrides).decode()]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except OSError as error:
        raise fail(
            "SWERL-C016", f"{python} cannot be started: {error.strerror}", "build the environments with `make setup`", str(python)
        ) from error
    if done.returncode != 0:
        raise fail("SWERL-C016", f"verl refuses the configuration: {_last_words(done.stderr)}", "correct `verl_overrides`", str(python))
    return orjson.loads(done.stdout.splitlines()[-1])


def known_keys(python: Path, cache_dir: Path = PROJECT_ROOT / "build") -> VerlKeys:
    """All keys of the verl in ``python``'s environment."""
    cached = cache_dir / f"verl-keys-{_installed_version(python)}.json"
    if cached.is_file():
        values = orjson.loads(cached.read_bytes())
    else:
        values = compose(python, [])["values"]
        write_atomic(cached, orjson.dumps(values))
    leaves: set[str] = set()
    groups: set[str] = set()
    _walk("", values, leaves, groups)
    return VerlKeys(cached.stem.removeprefix("verl-keys-"), frozenset(leaves), frozenset(groups))


def _installed_version(python: Path) -> str:
    """Read from the environment's files: the metadata directory is named after the version."""
    found = sorted(python.parent.parent.glob("lib/python3*/site-packages/verl-*.dist-info"))
    if not found:
        raise fail("SWERL-C016", f"verl is not installed beside {python}", "build the environments with `make setup`", str(python))
    return found[-1].name.removeprefix("verl-").removesuffix(".dist-info")


def _walk(prefix: str, node: Mapping[str, Any], leaves: set[str], groups: set[str]) -> None:
    for name, value in node.items():
        dotted = f"{prefix}{name}"
        if isinstance(value, dict):
            groups.add(dotted)
            _walk(f"{dotted}.", value, leaves, groups)
        else:
            leaves.add(dotted)


def _last_words(stderr: str) -> str:
    lines = [line for line in stderr.strip().splitlines() if line.strip()]
    return " ".join(lines[-3:]) if lines else "no message"
