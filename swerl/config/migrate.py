"""The reference's nested profile, rewritten in our form.

In: a file with ``meta_info`` and ``runtime_info.input``. Out: the same settings with sections at top level, and a notice for everything
that was renamed, left out, or now means something. Nothing is dropped without a notice. Comments of the old file are not carried over.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson
import yaml

from swerl.config.document import parse
from swerl.config.nearest import suggestion
from swerl.config.schema import Key, keys

_IMPORT_PATHS = {
    "harbor_patch.agents.image_mounted_claude_code:ClaudeCode": "harbor.agents.installed.claude_code:ClaudeCode",
    "harbor_patch.agents.image_mounted_opencode:OpenCode": "harbor.agents.installed.opencode:OpenCode",
    "harbor_patch.agents.image_mounted_openhands_ai.openhands:OpenHands": "harbor.agents.installed.openhands:OpenHands",
    "harbor.agents.custom.openhands_sdk:CustomOpenHandsSDK": "harbor.agents.installed.openhands_sdk:OpenHandsSDK",
    "harbor_patch.environments.kubernetes.kubernetes:KubernetesEnvironment": "harbor.environments.ack:ACKEnvironment",
    "harbor_patch.environments.remote_docker:RemoteDockerEnvironment": "harbor.environments.docker.docker:DockerEnvironment",
}
_NO_COUNTERPART = "REPLACE_ME"
_DOCUMENTARY = ("vllm", "training", "algorithm")
_META_NOTICES = {
    "dependencies": "an edge between blocks is not followed; give the checkpoint it names as model.model_path",
    "repos": "versions are pinned by uv.lock, not by repositories and commits",
    "environment": "the environments are built from uv.lock by `make setup`",
    "resources": "what a run needs is predicted by preflight",
}
_HEADER = "# yaml-language-server: $schema=schema/config.schema.json\n# Rewritten by `swerl config migrate`.\n"


def migrate(text: str, name: str = "config.yaml") -> tuple[str, list[str]]:
    """The rewritten text and its notices, one sentence each. A file already in our form comes back unchanged, with no notices.

    Raises SwerlError C002 or C003 when ``text`` is not YAML.
    """
    old = parse(text, name).values
    runtime = old.get("runtime_info") or {}
    nested = isinstance(runtime, Mapping) and "input" in runtime
    if "meta_info" not in old and not nested:
        return text, []
    notices = _meta(old.get("meta_info") or {}) + _leftovers(old, runtime)
    settings: dict[str, dict[str, Any]] = {}
    for section, entries in (runtime.get("input") or {}).items():
        if not isinstance(entries, Mapping):
            notices.append(f"runtime_info.input.{section} is not a section and was left out")
            continue
        for leaf, value in entries.items():
            _setting(f"{section}.{leaf}", value, settings, notices)
    if any(section in settings for section in _DOCUMENTARY):
        notices.append("vllm, training and algorithm were documentation there; here every one of their keys takes effect")
    return _HEADER + _dump(settings), notices


def _setting(name: str, value: Any, settings: dict[str, dict[str, Any]], notices: list[str]) -> None:
    """Put one key where it belongs, or say why not."""
    key = keys().get(name)
    if key is None:
        notices.append(f"{name} is no key here and was left out{suggestion(name, list(keys()))}")
        return
    if key.dead:
        notices.append(f"{name} was left out: {key.dead}")
        return
    if key.secret:
        if value:
            notices.append(f"{name} was left out of the file: export {key.env} instead")
        return
    settings.setdefault(key.section, {})[key.leaf] = _converted(key, value, notices)


def _converted(key: Key, value: Any, notices: list[str]) -> Any:
    name = key.name
    if name.endswith("_import_path") and isinstance(value, str):
        return _import_path(name, value, notices)
    if name == "harbor_agent.environment_type" and value is not None:
        notices.append(f"{name}: {value!r} became null, because environment_import_path chooses the backend")
        return None
    if name == "harbor_agent.host_path_mounts" and isinstance(value, str):
        return _mounts(name, value, notices)
    if name == "experiment.exp_name" and isinstance(value, str) and _holds_time(value):
        notices.append(f"{name}: {value!r} was emptied: a name with the time in it never resumes")
        return ""
    if isinstance(value, str) and (value.startswith("repos/") or "/repos/harbor" in value) and key.default == "":
        notices.append(f"{name}: {value!r} was emptied: it points into the repositories of the reference")
        return ""
    return value


def _mounts(name: str, value: str, notices: list[str]) -> Any:
    """The reference's JSON text as a list; text that is no JSON must be filled in anew."""
    try:
        return orjson.loads(value) if value.strip() else None
    except orjson.JSONDecodeError:
        notices.append(f"{name}: {value!r} is not JSON; write the mounts in its place")
        return _NO_COUNTERPART


def _import_path(name: str, value: str, notices: list[str]) -> str:
    if value in _IMPORT_PATHS:
        notices.append(f"{name}: {value} became {_IMPORT_PATHS[value]}")
        return _IMPORT_PATHS[value]
    if value.startswith(("harbor_patch.", "harbor.agents.custom.")):
        notices.append(f"{name}: {value} has no counterpart in Harbor; name a class of your own in its place")
        return _NO_COUNTERPART
    return value


def _holds_time(name: str) -> bool:
    return "$(" in name or bool(re.search(r"\d{8}[-_T]?\d{4,6}", name))


def _meta(meta: Mapping[str, Any]) -> list[str]:
    return [
        f"meta_info.{name} was left out: {_META_NOTICES.get(name, 'a run is named by experiment.project_name and experiment.exp_name')}"
        for name, value in meta.items()
        if value not in (None, {}, [])
    ]


def _leftovers(old: Mapping[str, Any], runtime: Mapping[str, Any]) -> list[str]:
    notices = [f"{name} was left out: live state is kept in the run directory" for name in old if name not in ("meta_info", "runtime_info")]
    for name in runtime:
        if name == "output":
            notices.append("runtime_info.output was left out: its values are filled in each run directory (outputs.yaml)")
        elif name != "input":
            notices.append(f"runtime_info.{name} was left out: live state is kept in the run directory")
    return notices


def _dump(settings: Mapping[str, Mapping[str, Any]]) -> str:
    """Sections and keys in the schema's order, one blank line between sections."""
    order = list(keys())
    sections = sorted(settings, key=lambda s: next(i for i, name in enumerate(order) if name.startswith(f"{s}.")))
    parts = []
    for section in sections:
        ordered = {n.rpartition(".")[2]: None for n in order if n.rpartition(".")[0] == section}
        body = {leaf: settings[section][leaf] for leaf in ordered if leaf in settings[section]}
        parts.append(yaml.safe_dump({section: body}, sort_keys=False, allow_unicode=True, width=1000))
    return "\n" + "\n".join(parts)
