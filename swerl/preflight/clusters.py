"""Family `sandbox`, continued: sandboxes that are containers, here or in a cluster, and the images they need."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator

from swerl.facts.indexes import Row
from swerl.preflight.check import Check, Fact, Finding, NotApplicable
from swerl.preflight.containers import client
from swerl.preflight.context import Context
from swerl.preflight.kubeapi import Cluster, KubeError, cluster_of, kubeconfig_of
from swerl.preflight.registry import Image, RegistryUnreachable, exists
from swerl.preflight.runner import side_by_side

MANY_REPORTS = 1000
SAMPLED_IMAGES = 8  # of each split
_FROM = re.compile(r"^\s*FROM\s+(?:--\S+\s+)*(?P<image>\S+)", re.MULTILINE | re.IGNORECASE)


class ClusterAnswers(Check):
    id = "SWERL-P504"
    family = "sandbox"
    title = "Kubernetes"
    asks = "the API server answers, has a node that is ready, lets this account create and delete pods in the namespace, and is not choked"
    remedy = "set k8s.kubeconfig and k8s.namespace; the account needs create, get, list, delete on pods and create on pods/exec"
    live = True
    budget_s = 9.5
    hung = "fatal"
    faults = (10,)

    def run(self, ctx: Context) -> Iterator[Finding]:
        if ctx.backend != "kubernetes":
            raise NotApplicable(f"the sandbox is {ctx.backend}")
        path, namespace = kubeconfig_of(ctx), ctx.cfg.k8s.namespace
        try:
            cluster = cluster_of(ctx)
            version = cluster.ask("/version")["gitVersion"]
            yield from self._nodes(cluster)
            yield from self._rights(cluster, namespace)
        except KubeError as error:
            yield self.found(str(error), str(path))
            return
        yield from self._reports(cluster)
        yield Fact(f"{version} at {cluster.server}, namespace {namespace}")

    def _nodes(self, cluster: Cluster) -> Iterator[Finding]:
        nodes = cluster.ask("/api/v1/nodes?limit=200")["items"]
        ready = [n for n in nodes if any(c["type"] == "Ready" and c["status"] == "True" for c in n["status"].get("conditions", ()))]
        if not ready:
            yield self.found(f"none of {len(nodes)} nodes is ready", cluster.server)
        yield Fact(f"{len(ready)} of {len(nodes)} nodes ready")

    def _rights(self, cluster: Cluster, namespace: str) -> Iterator[Finding]:
        for verb, resource, sub in (("create", "pods", ""), ("delete", "pods", ""), ("create", "pods", "exec")):
            attributes = {"namespace": namespace, "verb": verb, "resource": resource, "subresource": sub}
            review = {
                "apiVersion": "authorization.k8s.io/v1",
                "kind": "SelfSubjectAccessReview",
                "spec": {"resourceAttributes": attributes},
            }
            answer = cluster.ask("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
            if not answer["status"]["allowed"]:
                what = f"{resource}/{sub}" if sub else resource
                yield self.found(f"this account may not {verb} {what} in namespace {namespace}", cluster.server)

    def _reports(self, cluster: Cluster) -> Iterator[Finding]:
        """A policy controller with thousands of unprocessed reports restarts for ever and keeps the control plane's disk busy."""
        try:
            page = cluster.ask("/apis/reports.kyverno.io/v1/ephemeralreports?limit=1")
        except KubeError:
            return  # no such controller, or not this account's to see
        number = len(page["items"]) + int(page["metadata"].get("remainingItemCount") or 0)
        if number > MANY_REPORTS:
            yield self.found(
                f"{number:,} ephemeral reports of the policy controller: its restarts load the control plane's disk",
                cluster.server,
                severity="warning",
                remedy="scale the reports controller to 0, delete the ephemeral reports, and clean them up regularly",
            )


class NetworkIsClosed(Check):
    id = "SWERL-P511"
    family = "sandbox"
    title = "network of the sandboxes"
    asks = "the kind of sandbox can keep agents off the network as harbor_runtime.sandbox.network asks"
    remedy = "use bubblewrap or Docker, or close the backend's network yourself and set harbor_runtime.sandbox.network: public to say so"
    severity = "warning"
    faults = (51,)

    def run(self, ctx: Context) -> Iterator[Finding]:
        network = ctx.cfg.harbor_runtime.sandbox.network
        if network != "public" and ctx.backend == "kubernetes":
            yield self.found(
                f"network {network} is kept by a NetworkPolicy, which holds only where the cluster's network plugin enforces policies",
                ctx.source("harbor_runtime.sandbox.network"),
                remedy="try it in a pod of the run, as docs/trials.md shows; Calico and Cilium do, plain Flannel does not",
            )
        elif network != "public" and ctx.backend == "other":
            agent = ctx.cfg.harbor_agent
            yield self.found(
                f"network {network} is asked for, and {agent.environment_import_path or agent.environment_type} is not closed by swerl",
                ctx.source("harbor_runtime.sandbox.network"),
            )
        elif network == "public":
            yield self.found(
                "agents reach the whole network: they can fetch the fix they are asked to write",
                ctx.source("harbor_runtime.sandbox.network"),
                remedy="set harbor_runtime.sandbox.network: gateway",
            )
        yield Fact(network)


class ImagesAreThere(Check):
    id = "SWERL-P512"
    family = "sandbox"
    title = "images"
    asks = f"the images of tasks and agent can be pulled (a sample of {SAMPLED_IMAGES} of each split)"
    remedy = "push the image, correct its name in task.toml or the Dockerfile, or log in to the registry on the sandboxes' hosts"
    live = True
    budget_s = 9.5
    faults = (21,)

    def run(self, ctx: Context) -> Iterator[Finding]:
        if ctx.backend not in {"docker", "kubernetes"}:
            raise NotApplicable(f"the sandbox is {ctx.backend}: its root is a directory")
        wanted: dict[str, str] = {}
        if ctx.cfg.harbor_agent.runtime_image:
            wanted[ctx.cfg.harbor_agent.runtime_image] = "harbor_agent.runtime_image"
        for split in ("val", "train"):
            for row in _spread(ctx.rows(split)):
                image = image_of(row)
                if image:
                    wanted.setdefault(image, f"task {row.task_id} ({split})")
        answers = side_by_side(lambda name: self._look(ctx, name), wanted)
        missing = [name for name, answer in zip(wanted, answers, strict=True) if answer == "missing"]
        unknown = [answer for answer in answers if answer not in {"there", "missing"}]
        for name in missing:
            yield self.found(f"image {name} cannot be pulled", wanted[name])
        if unknown:
            yield self.found(f"{len(unknown)} images could not be asked for: {unknown[0]}", severity="warning")
        yield Fact(f"{len(wanted) - len(missing) - len(unknown)} of {len(wanted)} there")

    def _look(self, ctx: Context, name: str) -> str:
        if (
            ctx.backend == "docker"
            and ctx.ask(["docker", "image", "inspect", "--format", "{{.Id}}", name], timeout_s=4.0, env=client(ctx)).ok
        ):
            return "there"
        try:
            return "there" if exists(Image.parse(name)) else "missing"
        except RegistryUnreachable as error:
            return str(error)


def _spread(rows: list[Row]) -> list[Row]:
    here = [r for r in rows if r.task_dir.is_dir()]
    return here if len(here) <= SAMPLED_IMAGES else [here[i * len(here) // SAMPLED_IMAGES] for i in range(SAMPLED_IMAGES)]


def image_of(row: Row) -> str:
    """The image a task's sandbox comes from: task.toml's, else the last FROM of its Dockerfile that names no stage; empty if neither."""
    try:
        named = tomllib.loads((row.task_dir / "task.toml").read_text()).get("environment", {}).get("docker_image")
    except (OSError, tomllib.TOMLDecodeError):
        return ""
    dockerfile = row.task_dir / "environment" / "Dockerfile"
    if named or not dockerfile.is_file():
        return named or ""
    text = dockerfile.read_text(errors="replace")
    stages = set(re.findall(r"^\s*FROM\s+\S+\s+AS\s+(\S+)", text, re.MULTILINE | re.IGNORECASE))
    images = [m["image"] for m in _FROM.finditer(text) if m["image"] not in stages and m["image"] != "scratch" and "$" not in m["image"]]
    return images[-1] if images else ""


CHECKS = (ClusterAnswers(), NetworkIsClosed(), ImagesAreThere())
