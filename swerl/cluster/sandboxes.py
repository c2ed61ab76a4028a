"""The namespace of the sandboxes: how much they may take, whom they may reach, and what the runner may do to them.

Sandboxes reach the gateway and name service and nothing else; whoever needs package indexes inside a trial adds a policy of their own.
The runner's rights are pods, their logs and commands in them, in this namespace alone: no secrets, no nodes, no other namespace.
"""

from __future__ import annotations

from typing import Any

from swerl.cluster.options import ManifestOptions
from swerl.config.runconfig import RunConfig
from swerl.errors import fail

_MANAGED = {"app.kubernetes.io/name": "swerl", "app.kubernetes.io/component": "sandboxes"}


def sandboxes(config: RunConfig, options: ManifestOptions) -> list[dict[str, Any]]:
    namespace = config.k8s.namespace
    if namespace in ("default", "kube-system"):
        message = f"sandboxes would get the namespace {namespace}, which is not theirs to limit"
        raise fail("SWERL-E035", message, "name one of their own in k8s.namespace", config.source.get("k8s.namespace", ""))
    if namespace == options.namespace:
        message = f"sandboxes and the run share the namespace {namespace}"
        raise fail(
            "SWERL-E035", message, "name another in k8s.namespace, so that a sandbox is never beside the run's secrets", "k8s.namespace"
        )
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": {**_MANAGED, **_admission()}}},
        _account("sandbox", namespace),
        _account("swerl-run", options.namespace),
        _quota(config, namespace),
        _limits(config, namespace),
        _role(namespace),
        _binding(namespace, options.namespace),
        _policy(config, namespace, options),
    ]


def _admission() -> dict[str, str]:
    """Tasks' images may run as root inside, but get no host access of any kind."""
    return {"pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/warn": "restricted"}


def _meta(name: str, namespace: str) -> dict[str, Any]:
    return {"name": name, "namespace": namespace, "labels": dict(_MANAGED)}


def _account(name: str, namespace: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": _meta(name, namespace), "automountServiceAccountToken": False}


def _quota(config: RunConfig, namespace: str) -> dict[str, Any]:
    """Of each trial the agent's pod, the one it is graded in and one that is still being deleted; and those made ready ahead."""
    pods = 3 * config.harbor_runtime.num_workers + config.harbor_runtime.warm_pool
    cpus = config.harbor_agent.environment_override_cpus or 1
    memory_mb = config.harbor_agent.environment_override_memory_mb or 4096
    hard = {
        "pods": str(pods),
        "requests.cpu": str(pods * cpus),
        "requests.memory": f"{pods * memory_mb}Mi",
        "limits.memory": f"{pods * memory_mb}Mi",
        "secrets": "0",
        "services": "0",
        "persistentvolumeclaims": "0",
    }
    return {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": _meta("sandboxes", namespace), "spec": {"hard": hard}}


def _limits(config: RunConfig, namespace: str) -> dict[str, Any]:
    size = {
        "cpu": str(config.harbor_agent.environment_override_cpus or 1),
        "memory": f"{config.harbor_agent.environment_override_memory_mb or 4096}Mi",
    }
    limit = {"type": "Container", "default": {**size, "ephemeral-storage": "10Gi"}, "defaultRequest": size}
    return {"apiVersion": "v1", "kind": "LimitRange", "metadata": _meta("sandboxes", namespace), "spec": {"limits": [limit]}}


def _role(namespace: str) -> dict[str, Any]:
    rules = [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["create", "delete", "get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["create", "get"]},
        {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["events"], "verbs": ["list", "watch"]},
        {"apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"], "verbs": ["create", "delete", "get", "list"]},
    ]
    return {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": _meta("swerl-trials", namespace), "rules": rules}


def _binding(namespace: str, run_namespace: str) -> dict[str, Any]:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": _meta("swerl-trials", namespace),
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "swerl-trials"},
        "subjects": [{"kind": "ServiceAccount", "name": "swerl-run", "namespace": run_namespace}],
    }


def _policy(config: RunConfig, namespace: str, options: ManifestOptions) -> dict[str, Any]:
    run = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": options.namespace}},
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "swerl", "swerl/role": "head"}},
    }
    names = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
        "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
    }
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _meta("sandboxes", namespace),
        "spec": {
            "podSelector": {},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [],
            "egress": [
                {"to": [run], "ports": [{"port": config.infrastructure.litellm_port, "protocol": "TCP"}]},
                {"to": [names], "ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]},
            ],
        },
    }
