"""Harbor's trial configuration, as far as the run decides it.

The result has the field names of Harbor's ``TrialConfig`` and validates against it. The runner adds what belongs to one trial: task,
names, directories, the gateway's address and key. Harbor's classes refuse arguments they do not know, so each kind of agent and sandbox is
given what it understands; what a user asks for and a class cannot do is refused (C017).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from swerl.config.runconfig import RunConfig
from swerl.config.sections import HarborAgent
from swerl.errors import fail
from swerl.facts.sandbox import KUBERNETES, MOUNT, backend

# What an agent class takes of our keys, and under which name. The turn limit holds for every agent, because the gateway counts; an agent
# that is told as well can end in good order.
_AGENT_ARGUMENTS: dict[str, dict[str, str]] = {
    "swerl.trials.agents.mini": {
        "max_iterations": "max_turns",
        "temperature": "temperature",
        "disable_tool_calls": "disable_tool_calls",
        "max_consecutive_no_tool": "max_consecutive_no_tool",
    },
    "harbor.agents.installed.claude_code": {"max_iterations": "max_turns"},
    "harbor.agents.installed.openhands": {
        "max_iterations": "max_iterations",
        "temperature": "temperature",
        "disable_tool_calls": "disable_tool_calls",
    },
    "harbor.agents.installed.openhands_sdk": {"max_iterations": "max_iterations", "temperature": "temperature"},
    "harbor.agents.terminus_2.terminus_2": {"max_iterations": "max_turns", "temperature": "temperature"},
}
_AGENT_MODULES = {
    "claude-code": "harbor.agents.installed.claude_code",
    "openhands": "harbor.agents.installed.openhands",
    "openhands-sdk": "harbor.agents.installed.openhands_sdk",
    "terminus-2": "harbor.agents.terminus_2.terminus_2",
}
_RUNTIME_VOLUME = "agent-runtime"
_OPENHANDS = "/opt/openhands-sdk-venv"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
RUN_LABEL = "harbor-run"


def trial_settings(config: RunConfig) -> dict[str, Any]:
    """Raises C017 when the agent or the sandbox cannot do what a key asks for."""
    a = config.harbor_agent
    _one_of_each(a)
    return {
        "agent": {
            **({"import_path": a.agent_import_path} if a.agent_import_path else {"name": a.agent_name}),
            "model_name": f"hosted_vllm/{config.model.served_model_name}",
            "override_timeout_sec": a.override_timeout_sec,
            "max_timeout_sec": a.max_timeout_sec,
            "kwargs": {**_agent_arguments(a), **({"skip_install": True} if _from_runtime_dir(a) else {}), **a.agent_kwargs},
        },
        "environment": {
            **_environment_class(a),
            "force_build": a.environment_force_build,
            "delete": a.environment_delete,
            "override_cpus": a.environment_override_cpus,
            "override_memory_mb": a.environment_override_memory_mb,
            **({"env": {"PATH": f"{MOUNT}/bin:{_PATH}"}} if a.runtime_dir else {}),
            **(_cluster(config) if backend(a) == "kubernetes" else {"mounts": _mounts(a), "kwargs": dict(a.environment_kwargs)}),
        },
        "verifier": {"disable": not a.verifier_enabled},
        "agent_setup_timeout_multiplier": a.agent_setup_timeout_multiplier,
        "agent_timeout_multiplier": a.agent_timeout_multiplier,
        "verifier_timeout_multiplier": a.verifier_timeout_multiplier,
        "environment_build_timeout_multiplier": a.environment_build_timeout_multiplier,
    }


def _one_of_each(a: HarborAgent) -> None:
    """Agent and sandbox are each named once: by class, or by Harbor's name."""
    if bool(a.environment_type) == bool(a.environment_import_path):
        raise fail(
            "SWERL-C017",
            "the sandbox must be named by exactly one of environment_import_path and environment_type",
            "set harbor_agent.environment_type to null, or environment_import_path to null and environment_type to a backend of Harbor",
            "harbor_agent.environment_type",
        )
    if not a.agent_name and not a.agent_import_path:
        raise fail(
            "SWERL-C017",
            "no agent is named",
            "set harbor_agent.agent_import_path, or harbor_agent.agent_name to an agent of Harbor",
            "harbor_agent.agent_name",
        )


def _environment_class(a: HarborAgent) -> dict[str, str]:
    """Harbor's generic cluster backend runs as our class over it, which adds what a cluster and an untrusted policy need."""
    named = a.environment_import_path or a.environment_type or ""
    if "environments.ack" in named or named == "ack":
        return {"import_path": KUBERNETES}
    return {"import_path": named} if a.environment_import_path else {"type": named}


def _agent_arguments(a: HarborAgent) -> dict[str, Any]:
    module = a.agent_import_path.partition(":")[0] if a.agent_import_path else _AGENT_MODULES.get(a.agent_name or "", "")
    names = _AGENT_ARGUMENTS.get(module, {})
    for key in ("disable_tool_calls", "max_consecutive_no_tool"):
        if getattr(a, key) and key not in names:
            raise fail(
                "SWERL-C017",
                f"the agent {a.agent_import_path or a.agent_name} has no setting for {key}",
                f"set harbor_agent.{key} back to its default, or pass the agent's own argument in harbor_agent.agent_kwargs",
                f"harbor_agent.{key}",
            )
    return {theirs: getattr(a, ours) for ours, theirs in names.items()}


def _mounts(a: HarborAgent) -> list[dict[str, Any]]:
    """Volumes in the form of a compose file: the host's directories, then the agent's runtime out of its image."""
    bound = [
        {"type": "bind", "source": m.host_path, "target": m.mount_path, **({"read_only": True} if m.read_only else {})}
        for m in a.host_path_mounts
    ]
    if a.runtime_dir:
        bound += [{"type": "bind", "source": f"{a.runtime_dir}{part}", "target": t, "read_only": True} for part, t in _runtime_places(a)]
    if not a.runtime_image:
        return bound
    if backend(a) != "docker":
        raise fail(
            "SWERL-C017",
            f"this sandbox cannot mount the image {a.runtime_image}",
            "empty harbor_agent.runtime_image, and show the runtime with harbor_agent.host_path_mounts",
            "harbor_agent.runtime_image",
        )
    image = {"image": {"subpath": a.runtime_image_subpath}} if a.runtime_image_subpath else {}
    return [*bound, {"type": "image", "source": a.runtime_image, "target": a.runtime_mount_path, "read_only": True, **image}]


def _from_runtime_dir(a: HarborAgent) -> bool:
    """Whether Harbor would install the agent into each sandbox, and is to take it from the directory of runtimes instead."""
    return a.runtime_dir is not None and (a.agent_import_path or "harbor.agents.installed").startswith("harbor.agents.installed")


def _runtime_places(a: HarborAgent) -> list[tuple[str, str]]:
    """Parts of the directory of runtimes, and where sandboxes see them. Harbor looks for openhands-sdk in a place of its own."""
    named = f"{a.agent_import_path or ''}{a.agent_name or ''}"
    return [("", MOUNT), *([("/openhands-sdk", _OPENHANDS)] if "openhands_sdk" in named or "openhands-sdk" in named else [])]


def _cluster(config: RunConfig) -> dict[str, Any]:
    """Arguments of Harbor's generic Kubernetes backend. The label lets a reaper find the pods of a run, and only those."""
    a, k = config.harbor_agent, config.k8s
    if a.runtime_dir:
        raise fail(
            "SWERL-C017",
            f"a cluster's sandboxes do not see the directory {a.runtime_dir}",
            "empty harbor_agent.runtime_dir, and name an image with the runtimes in harbor_agent.runtime_image",
            "harbor_agent.runtime_dir",
        )
    volumes = [{"name": f"host-{i}", "hostPath": {"path": m.host_path}} for i, m in enumerate(a.host_path_mounts)]
    mounts = [{"name": f"host-{i}", "mountPath": m.mount_path, "readOnly": m.read_only} for i, m in enumerate(a.host_path_mounts)]
    if a.runtime_image:
        volumes.append({"name": _RUNTIME_VOLUME, "image": {"reference": a.runtime_image, "pullPolicy": "IfNotPresent"}})
        subpath = {"subPath": a.runtime_image_subpath} if a.runtime_image_subpath else {}
        mounts.append({"name": _RUNTIME_VOLUME, "mountPath": a.runtime_mount_path, "readOnly": True, **subpath})
    spec: dict[str, Any] = {"activeDeadlineSeconds": k.pod_active_deadline_seconds}
    if volumes:
        spec |= {"volumes": volumes, "containers": [{"volumeMounts": mounts}]}
    arguments = {
        "namespace": k.namespace,
        "kubeconfig": None if k.kubeconfig is None else str(k.kubeconfig),
        "pod_overrides": {"metadata": {"labels": {RUN_LABEL: a.pod_name_prefix}}, "spec": spec},
    }
    if _environment_class(a).get("import_path") == KUBERNETES:
        arguments |= {"startup_timeout_s": k.pod_startup_timeout, "name_prefix": a.pod_name_prefix}
    return {"kwargs": _merged(arguments, a.environment_kwargs)}


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``over`` laid over ``base``, mappings merged, everything else replaced."""
    both = {name: _merged(base[name], over[name]) for name in base.keys() & over.keys() if isinstance(base[name], Mapping)}
    return {**base, **over, **both}
