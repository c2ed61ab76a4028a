"""Harbor's trial configuration, as far as the run decides it.

The result has the field names of Harbor's ``TrialConfig``. The runner adds what belongs to one trial: task, names, directories, the
gateway's address and key. Keyword arguments for agent and sandbox classes follow the reference's names.
"""

from __future__ import annotations

from typing import Any

from swerl.config.sections import HarborAgent, RunConfig

_KUBERNETES = ("kubernetes", "harbor.environments.ack", "harbor.environments.openshift", "harbor.environments.gke")


def trial_settings(config: RunConfig) -> dict[str, Any]:
    a = config.harbor_agent
    return {
        "agent": {
            **_named(a.agent_name, a.agent_import_path),
            "model_name": f"hosted_vllm/{config.model.served_model_name}",
            "override_timeout_sec": a.override_timeout_sec,
            "max_timeout_sec": a.max_timeout_sec,
            "kwargs": {
                "max_turns": a.max_iterations,
                "temperature": a.temperature,
                "disable_tool_calls": a.disable_tool_calls,
            },
        },
        "environment": {
            **_backend(a),
            "force_build": a.environment_force_build,
            "delete": a.environment_delete,
            "override_cpus": a.environment_override_cpus,
            "override_memory_mb": a.environment_override_memory_mb,
            "mounts": [
                {"type": "bind", "source": m.host_path, "target": m.mount_path, "read_only": m.read_only} for m in a.host_path_mounts
            ],
            "env": {"DOCKER_HOST": a.docker_host} if a.docker_host else {},
            "kwargs": {**_runtime(a), **(_cluster(config) if _on_kubernetes(a) else {})},
        },
        "verifier": {"disable": not a.verifier_enabled},
        "agent_setup_timeout_multiplier": a.agent_setup_timeout_multiplier,
        "agent_timeout_multiplier": a.agent_timeout_multiplier,
        "verifier_timeout_multiplier": a.verifier_timeout_multiplier,
        "environment_build_timeout_multiplier": a.environment_build_timeout_multiplier,
    }


def _named(name: str | None, import_path: str | None) -> dict[str, str | None]:
    """Harbor takes one of the two; with a class given, the name is only a label of ours."""
    return {"import_path": import_path} if import_path else {"name": name}


def _backend(a: HarborAgent) -> dict[str, str | None]:
    return {"import_path": a.environment_import_path} if a.environment_import_path else {"type": a.environment_type}


def _runtime(a: HarborAgent) -> dict[str, str]:
    if not a.runtime_image:
        return {}
    return {
        "agent_runtime_image": a.runtime_image,
        "agent_runtime_mount_path": a.runtime_mount_path,
        "agent_runtime_image_subpath": a.runtime_image_subpath,
    }


def _on_kubernetes(a: HarborAgent) -> bool:
    named = a.environment_import_path or a.environment_type or ""
    return any(word in named for word in _KUBERNETES) or named in ("ack", "gke", "openshift")


def _cluster(config: RunConfig) -> dict[str, Any]:
    k = config.k8s
    return {
        "kubeconfig": None if k.kubeconfig is None else str(k.kubeconfig),
        "namespace": k.namespace,
        "pod_startup_timeout_sec": k.pod_startup_timeout,
        "pod_active_deadline_seconds": k.pod_active_deadline_seconds,
        "pod_name_prefix": config.harbor_agent.pod_name_prefix,
    }
