"""Kubernetes objects: valid by Kubernetes' own schemas, sized by the configuration, least rights, no secret in them."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import jsonschema_rs
import pytest
import yaml

from swerl.cli import run as swerl_run
from swerl.cluster import ManifestOptions, kuberay, render, sandboxes
from swerl.config import RunConfig, load
from swerl.environment.exports import clean_environ
from swerl.environment.lock import load_lock
from swerl.errors import SwerlError

ROOT = Path(__file__).parents[2]
IMAGE = "registry.example/swerl-trainer@sha256:" + "a" * 64
BASE = {
    "model.model_path": "/models/policy",
    "data.data_dir": "/data/tasks",
    "infrastructure.bind_host": "0.0.0.0",
    "infrastructure.ray_port": "6379",
    "k8s.namespace": "swerl-sandboxes",
    "experiment.runs_dir": "/runs",
    "experiment.exp_name": "Try_1",
    "credentials.wandb_mode": "online",
    "credentials.wandb_api_key": "",
}


def config(**changes: str) -> RunConfig:
    env = {"WANDB_API_KEY": "very-secret-key"}
    return load(ROOT / "config.yaml", None, BASE | {k.replace("__", "."): v for k, v in changes.items()}, env)


def objects(c: RunConfig, **options) -> dict[str, dict]:
    files = render(c, ManifestOptions(image=IMAGE, **options))
    return {f"{o['kind']}/{o['metadata']['name']}": o for text in files.values() for o in yaml.safe_load_all(text)}


def heads(found: dict[str, dict]) -> tuple[dict, dict]:
    spec = found["RayJob/swerl-try-1"]["spec"]["rayClusterSpec"]
    pod = spec["headGroupSpec"]["template"]["spec"]
    return spec, pod


def test_the_same_configuration_gives_the_same_bytes():
    assert render(config(), ManifestOptions(image=IMAGE)) == render(config(), ManifestOptions(image=IMAGE))
    assert "&id" not in "".join(render(config(), ManifestOptions(image=IMAGE)).values())


@pytest.mark.slow
@pytest.mark.parametrize("nnodes", ["1", "4"])
def test_every_object_but_the_rayjob_is_valid_kubernetes(tmp_path, nnodes):
    """Checked by the schemas of Kubernetes 1.32 (a package of its own, used without the project's environment), strictly; pods too."""
    found = list(objects(config(infrastructure__nnodes=nnodes)).values())
    job = next(o for o in found if o["kind"] == "RayJob")
    groups = [job["spec"]["rayClusterSpec"]["headGroupSpec"], *job["spec"]["rayClusterSpec"].get("workerGroupSpecs", [])]
    pods = [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": group["template"]["spec"]} for group in groups]
    (tmp_path / "objects.json").write_text(json.dumps([o for o in found if o["kind"] != "RayJob"] + pods))
    program = (
        "import json, sys, kubernetes_validate as k\n"
        "for o in json.load(open(sys.argv[1])): k.validate(o, '1.32', strict=True)\n"
        "bad = {'apiVersion': 'v1', 'kind': 'Pod', 'metadata': {'name': 'p'}, 'spec': {'containers': 'x'}}\n"
        "try: k.validate(bad, '1.32', strict=True)\n"
        "except k.ValidationError: print('valid')"
    )
    command = ["uv", "run", "--quiet", "--no-project", "--no-config", "--with", "kubernetes-validate==1.37.0", "python", "-c", program]
    done = subprocess.run(
        [*command, str(tmp_path / "objects.json")], capture_output=True, text=True, env=clean_environ(os.environ), check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "valid"


@pytest.mark.parametrize("nnodes", ["1", "3"])
def test_the_rayjob_has_kuberays_shape(nnodes):
    schema = json.loads(Path(__file__).with_name("rayjob.schema.json").read_text())
    job = objects(config(infrastructure__nnodes=nnodes))["RayJob/swerl-try-1"]
    jsonschema_rs.validate(schema, job)
    broken = json.loads(json.dumps(job))
    del broken["spec"]["entrypoint"]
    with pytest.raises(jsonschema_rs.ValidationError):
        jsonschema_rs.validate(schema, broken)


def test_the_ray_version_is_the_locked_one():
    assert ManifestOptions(image=IMAGE).ray_version == load_lock(ROOT / "uv.lock").closure(["gpu"])["ray"].version


def test_nodes_and_gpus_come_from_the_configuration():
    spec, pod = heads(objects(config(infrastructure__nnodes="4", infrastructure__ngpus_per_node="8")))
    (workers,) = spec["workerGroupSpecs"]
    assert workers["replicas"] == workers["minReplicas"] == workers["maxReplicas"] == 3
    assert workers["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "8"
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "8"
    assert spec["headGroupSpec"]["rayStartParams"]["num-gpus"] == workers["rayStartParams"]["num-gpus"] == "8"


def test_on_one_node_kuberays_ray_holds_nothing_beside_the_trainers_own():
    spec, pod = heads(objects(config(infrastructure__nnodes="1")))
    assert "workerGroupSpecs" not in spec
    assert spec["headGroupSpec"]["rayStartParams"]["num-gpus"] == "0"
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "8"


def test_the_cpu_device_asks_for_no_gpu():
    _, pod = heads(objects(config(infrastructure__device="cpu")))
    assert "nvidia.com/gpu" not in pod["containers"][0]["resources"]["limits"]


def test_paths_in_the_pod_are_those_of_the_configuration():
    _, pod = heads(objects(config()))
    mounts = {m["name"]: m for m in pod["containers"][0]["volumeMounts"]}
    assert mounts["runs"]["mountPath"] == "/runs" and "readOnly" not in mounts["runs"]
    assert mounts["data"]["mountPath"] == "/data/tasks" and mounts["model"]["mountPath"] == "/models"
    assert all(m.get("readOnly") for name, m in mounts.items() if name in ("config", "data", "model"))


def test_the_configuration_in_the_cluster_is_the_one_rendered(tmp_path):
    c = config()
    text = objects(c)["ConfigMap/swerl-try-1-config"]["data"]["config.json"]
    (tmp_path / "config.json").write_text(text)
    loaded = load(tmp_path / "config.json", None, {}, {}).as_dict()
    rendered = c.as_dict()
    for values in (loaded, rendered):
        del values["environment"]  # the image's own environments
    assert loaded == rendered


def test_no_secret_is_in_the_manifests():
    c = config()
    assert c.secrets.wandb_api_key == "very-secret-key"
    assert "very-secret-key" not in "".join(render(c, ManifestOptions(image=IMAGE)).values())
    _, pod = heads(objects(c))
    (wandb,) = (e for e in pod["containers"][0]["env"] if e["name"] == "WANDB_API_KEY")
    assert wandb["valueFrom"]["secretKeyRef"] == {"name": "swerl-secrets", "key": "wandb-api-key"}
    _, offline = heads(objects(config(credentials__wandb_mode="offline")))
    assert not any(e["name"] == "WANDB_API_KEY" for e in offline["containers"][0]["env"])


def test_pods_have_few_rights():
    spec, _ = heads(objects(config(infrastructure__nnodes="2")))
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True and pod["restartPolicy"] == "Never"
        (container,) = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True,
        }  # fmt: skip
    assert spec["workerGroupSpecs"][0]["template"]["spec"]["automountServiceAccountToken"] is False


def test_the_head_knows_its_image():
    """The run's manifest says what image it ran in."""
    _, pod = heads(objects(config()))
    container = pod["containers"][0]
    assert {"name": "SWERL_IMAGE", "value": IMAGE} in container["env"]


def test_the_runner_may_do_to_sandboxes_what_it_must_and_no_more():
    found = objects(config())
    rules = {tuple(r["resources"]): set(r["verbs"]) for r in found["Role/swerl-trials"]["rules"]}
    assert set(rules) == {("pods",), ("pods/exec",), ("pods/log",), ("events",), ("networkpolicies",)}
    assert rules["networkpolicies",] == {"create", "delete", "get", "list"}, "its own trial's policies; no change of the namespace's"
    assert not any("*" in verbs for verbs in rules.values())
    assert found["Role/swerl-trials"]["metadata"]["namespace"] == "swerl-sandboxes"
    assert found["RoleBinding/swerl-trials"]["subjects"] == [{"kind": "ServiceAccount", "name": "swerl-run", "namespace": "swerl"}]
    assert found["ServiceAccount/sandbox"]["automountServiceAccountToken"] is False


def test_sandboxes_reach_the_gateway_and_names_only():
    policy = objects(config(infrastructure__litellm_port="8123"))["NetworkPolicy/sandboxes"]["spec"]
    assert policy["podSelector"] == {} and policy["ingress"] == [] and set(policy["policyTypes"]) == {"Ingress", "Egress"}
    assert [[p["port"] for p in rule["ports"]] for rule in policy["egress"]] == [[8123], [53, 53]]
    head = objects(config(infrastructure__litellm_port="8123"))["NetworkPolicy/swerl-try-1-head"]["spec"]
    assert [p["port"] for p in head["ingress"][0]["ports"]] == [8123]


def test_the_quota_holds_the_trials_of_the_configuration():
    c = config(
        harbor_runtime__num_workers="10", harbor_agent__environment_override_cpus="2", harbor_agent__environment_override_memory_mb="1000"
    )
    hard = objects(c)["ResourceQuota/sandboxes"]["spec"]["hard"]
    assert (hard["pods"], hard["requests.cpu"], hard["requests.memory"], hard["secrets"]) == ("30", "60", "30000Mi", "0")


@pytest.mark.parametrize(
    ("changes", "options", "id"),
    [
        ({"k8s__namespace": "default"}, {}, "SWERL-E035"),
        ({"k8s__namespace": "swerl"}, {}, "SWERL-E035"),
        ({"infrastructure__bind_host": "127.0.0.1"}, {}, "SWERL-E036"),
        ({"infrastructure__nnodes": "2", "infrastructure__ray_port": "0"}, {}, "SWERL-E036"),
    ],
)
def test_what_cannot_work_is_refused(changes, options, id):
    with pytest.raises(SwerlError, match=id):
        render(config(**changes), ManifestOptions(image=IMAGE, **options))


def test_an_image_without_a_digest_is_refused():
    with pytest.raises(SwerlError, match="SWERL-E034"):
        ManifestOptions(image="swerl-trainer:latest")


def test_a_kubeconfig_is_mounted_where_the_configuration_says():
    _, pod = heads(objects(config(k8s__kubeconfig="/etc/kube/config")))
    (mount,) = (m for m in pod["containers"][0]["volumeMounts"] if m["name"] == "kubeconfig")
    assert mount == {"name": "kubeconfig", "mountPath": "/etc/kube/config", "subPath": "kubeconfig", "readOnly": True}


def test_the_verb_writes_both_files(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    settings = [word for key, value in BASE.items() if value for word in ("--set", f"{key}={value}")]
    assert swerl_run(["env", "manifests", "--image", IMAGE, "--out", str(tmp_path), *settings]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["10-sandboxes.yaml", "20-run.yaml"]
    assert "kubectl apply" in capsys.readouterr().out


def test_both_halves_can_be_had_apart():
    options = ManifestOptions(image=IMAGE)
    assert {o["kind"] for o in kuberay(config(), options)} == {"ConfigMap", "RayJob", "Service", "NetworkPolicy"}
    assert sandboxes(config(), options)[0]["kind"] == "Namespace"
