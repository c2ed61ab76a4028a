"""The run as a KubeRay RayJob: a head pod on the first node and one GPU pod for each further node.

The entry point is ``swerl train``: its supervisor starts gateway, trial runner and trainer in the head pod, as on any host. On one node
the trainer makes a Ray of its own inside the head and KubeRay's holds no resources; on several it joins KubeRay's. The head's address
reaches the configuration by NODE0_IP, which also is where sandboxes find the gateway.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import Any

import orjson

from swerl.cluster.options import ManifestOptions
from swerl.config.runconfig import RunConfig
from swerl.config.schema import keys
from swerl.errors import fail
from swerl.record.process import IMAGE_VARIABLE

CONFIG_FOLDER = "/etc/swerl"
CONFIG_FILE = "config.json"
_USER = 10001


def run_name(config: RunConfig) -> str:
    """A name that Kubernetes accepts, from the experiment's."""
    kept = "".join(c if c.isalnum() else "-" for c in config.experiment.exp_name.lower()).strip("-")
    return f"swerl-{kept}"[:50].rstrip("-")


def labels(config: RunConfig) -> dict[str, str]:
    return {"app.kubernetes.io/name": "swerl", "app.kubernetes.io/instance": run_name(config), "swerl/digest": config.digest[:16]}


def kuberay(config: RunConfig, options: ManifestOptions) -> list[dict[str, Any]]:
    """ConfigMap, RayJob, Service and NetworkPolicy of one run, in the order in which they are applied."""
    if config.infrastructure.bind_host in ("127.0.0.1", "localhost", "::1"):
        message = f"the gateway would listen on {config.infrastructure.bind_host} alone, where no sandbox in another pod reaches it"
        raise fail("SWERL-E036", message, "set infrastructure.bind_host: 0.0.0.0", config.source.get("infrastructure.bind_host", ""))
    if config.infrastructure.nnodes > 1 and config.infrastructure.ray_port == 0:
        message = "the pods of several nodes cannot find a Ray whose port is chosen when it starts"
        raise fail("SWERL-E036", message, "set infrastructure.ray_port: 6379", config.source.get("infrastructure.ray_port", ""))
    return [_config_map(config, options), _ray_job(config, options), _service(config, options), _network_policy(config, options)]


def pod_config(config: RunConfig) -> str:
    """The resolved configuration as JSON, which YAML readers read; the environments are the image's, whatever this machine has."""
    values = config.as_dict()
    values["environment"] |= {"venv_path": "", "trials_venv_path": "", "requirements": "uv.lock"}
    for key in keys().values():  # an absent path is None in the types and empty in the file
        *sections, leaf = key.name.split(".")
        place = reduce(lambda inner, name: inner.get(name, {}), sections, values)
        if place.get(leaf, "") is None and "null" not in key.types:
            place[leaf] = ""
    return orjson.dumps(values, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode()


def _meta(config: RunConfig, options: ManifestOptions, suffix: str = "") -> dict[str, Any]:
    return {"name": f"{run_name(config)}{suffix}", "namespace": options.namespace, "labels": labels(config)}


def _config_map(config: RunConfig, options: ManifestOptions) -> dict[str, Any]:
    data = {CONFIG_FILE: pod_config(config)}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _meta(config, options, "-config"), "data": data}


def _ray_job(config: RunConfig, options: ManifestOptions) -> dict[str, Any]:
    infrastructure = config.infrastructure
    several = infrastructure.nnodes > 1
    gpus = str(infrastructure.ngpus_per_node)
    nothing = {"num-cpus": "0", "num-gpus": "0"}
    head_start = {"dashboard-host": "127.0.0.1", "port": str(_ray_port(config))} | ({"num-gpus": gpus} if several else nothing)
    cluster: dict[str, Any] = {
        "rayVersion": options.ray_version,
        "headGroupSpec": {"rayStartParams": head_start, "template": _pod(config, options, head=True)},
    }
    if several:
        cluster["workerGroupSpecs"] = [
            {
                "groupName": "gpu",
                "replicas": infrastructure.nnodes - 1,
                "minReplicas": infrastructure.nnodes - 1,
                "maxReplicas": infrastructure.nnodes - 1,
                "rayStartParams": {"num-gpus": gpus},
                "template": _pod(config, options, head=False),
            }
        ]
    spec: dict[str, Any] = {
        # A resubmitted run would be a second one beside the first: resuming is `swerl train` again, and it is the user's.
        "backoffLimit": 0,
        "submissionMode": "K8sJobMode",
        # RAY_ADDRESS is set for submitted programs; swerl decides itself which Ray is the run's.
        "entrypoint": f"env -u RAY_ADDRESS swerl train --config {CONFIG_FOLDER}/{CONFIG_FILE}",
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": 3600,
        "rayClusterSpec": cluster,
    }
    if options.active_deadline_s is not None:
        spec["activeDeadlineSeconds"] = options.active_deadline_s
    return {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": _meta(config, options), "spec": spec}


def _pod(config: RunConfig, options: ManifestOptions, *, head: bool) -> dict[str, Any]:
    infrastructure, gpus = config.infrastructure, config.infrastructure.ngpus_per_node
    role = "head" if head else "worker"
    memory_gb = options.memory_gb_per_gpu * gpus + (8 if head else 0)
    cpus = options.cpus_per_gpu * gpus + (max(1, config.harbor_runtime.num_workers // 8) if head else 0)
    resources: dict[str, Any] = {"cpu": str(cpus), "memory": f"{memory_gb}Gi"}
    if infrastructure.device == "cuda":
        resources["nvidia.com/gpu"] = str(gpus)
    environment: list[dict[str, Any]] = []
    if head:
        environment.append({"name": IMAGE_VARIABLE, "value": options.image})  # the run's manifest names it
        environment.append({"name": "NODE0_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}})
        if config.credentials.wandb_mode == "online":
            key = {"secretKeyRef": {"name": options.secret, "key": "wandb-api-key"}}
            environment.append({"name": "WANDB_API_KEY", "valueFrom": key})
    volumes, mounts = _volumes(config, options, memory_gb)
    container: dict[str, Any] = {
        "name": f"ray-{role}",
        "image": options.image,
        "imagePullPolicy": "IfNotPresent",
        "resources": {"requests": resources, "limits": resources},
        "env": environment,
        "volumeMounts": mounts,
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True},
    }
    if head:
        container["ports"] = [
            {"name": "gateway", "containerPort": infrastructure.litellm_port},
            {"name": "gcs", "containerPort": _ray_port(config)},
        ]
    return {
        "metadata": {"labels": {**labels(config), "swerl/role": role}},
        "spec": {
            "serviceAccountName": "swerl-run",
            "automountServiceAccountToken": head,
            "terminationGracePeriodSeconds": 120,
            "restartPolicy": "Never",
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": _USER,
                "runAsGroup": _USER,
                "fsGroup": _USER,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
            "volumes": volumes,
        },
    }


def _volumes(config: RunConfig, options: ManifestOptions, memory_gb: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Claims at the configuration's own paths. The model's claim holds the folder above the model, so that several share one."""
    volumes: list[dict[str, Any]] = [
        {"name": "config", "configMap": {"name": f"{run_name(config)}-config"}},
        {"name": "runs", "persistentVolumeClaim": {"claimName": options.runs_claim}},
        {"name": "data", "persistentVolumeClaim": {"claimName": options.data_claim, "readOnly": True}},
        {"name": "model", "persistentVolumeClaim": {"claimName": options.model_claim, "readOnly": True}},
        # Weights go from trainer to engine through shared memory; the default of 64 MiB ends such a run.
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{memory_gb // 2}Gi"}},
        {"name": "tmp", "emptyDir": {}},
    ]
    mounts: list[dict[str, Any]] = [
        {"name": "config", "mountPath": CONFIG_FOLDER, "readOnly": True},
        {"name": "runs", "mountPath": str(config.experiment.runs_dir)},
        {"name": "data", "mountPath": str(config.data.data_dir), "readOnly": True},
        {"name": "model", "mountPath": str(config.model.model_path.parent), "readOnly": True},
        {"name": "shm", "mountPath": "/dev/shm"},
        {"name": "tmp", "mountPath": "/tmp"},
    ]
    kubeconfig: Path | None = config.k8s.kubeconfig
    if kubeconfig is not None:
        volumes.append({"name": "kubeconfig", "secret": {"secretName": options.kubeconfig_secret, "defaultMode": 0o440}})
        mounts.append({"name": "kubeconfig", "mountPath": str(kubeconfig), "subPath": "kubeconfig", "readOnly": True})
    return volumes, mounts


def _ray_port(config: RunConfig) -> int:
    """KubeRay's Ray: the run's on several nodes, an idle one beside the trainer's own on a single node."""
    return config.infrastructure.ray_port if config.infrastructure.nnodes > 1 else 6379


def _selector(config: RunConfig, role: str) -> Mapping[str, str]:
    return {"app.kubernetes.io/instance": run_name(config), "swerl/role": role}


def _service(config: RunConfig, options: ManifestOptions) -> dict[str, Any]:
    port = {"name": "gateway", "port": config.infrastructure.litellm_port, "targetPort": "gateway"}
    spec = {"selector": dict(_selector(config, "head")), "ports": [port]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": _meta(config, options, "-gateway"), "spec": spec}


def _network_policy(config: RunConfig, options: ManifestOptions) -> dict[str, Any]:
    """Into the head: sandboxes on the gateway's port; pods of the run's own namespace (workers, KubeRay's submitter) on any."""
    gateway = {"port": config.infrastructure.litellm_port, "protocol": "TCP"}
    from_sandboxes = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": config.k8s.namespace}}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _meta(config, options, "-head"),
        "spec": {
            "podSelector": {"matchLabels": dict(_selector(config, "head"))},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [from_sandboxes], "ports": [gateway]}, {"from": [{"podSelector": {}}]}],
        },
    }
