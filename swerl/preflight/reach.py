"""Families `sandbox` and `host`: what lies between this host and what it needs (names, clocks, certificates, quotas, the disk)."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from swerl.facts.memory import GIB, size
from swerl.preflight.check import Check, Fact, Finding, NotApplicable
from swerl.preflight.clusters import image_of
from swerl.preflight.containers import client
from swerl.preflight.context import Context
from swerl.preflight.kubeapi import Cluster, KubeError, cluster_of
from swerl.preflight.registry import Image

SKEW_S = 30.0
SLOW_S = 900.0  # to read a policy, at every start
CHUNK, CHUNKS = 8 << 20, 4
_IP = re.compile(r"^[\d.]+$|:")
_QUANTITY = {"": 1, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


class NamesResolve(Check):
    id = "SWERL-P513"
    family = "host"
    title = "names"
    asks = "the names that this run will ask for (head, cluster, Docker daemon, registries, W&B) resolve here"
    remedy = "mend /etc/resolv.conf or /etc/hosts, or name the address"
    live = True
    budget_s = 9.0

    def run(self, ctx: Context) -> Iterator[Finding]:
        wanted = _names(ctx)
        if not wanted:
            raise NotApplicable("the run asks for no name")
        for name, why in wanted.items():
            answer = ctx.ask(["getent", "ahosts", name], timeout_s=3.0)
            if answer.code is None:
                raise NotApplicable("getent is not installed")
            if not answer.ok:
                severity = "warning" if why.startswith(("image", "W&B")) else "fatal"
                yield self.found(f"{name} does not resolve ({why})", why.partition(" of ")[2] or why, severity=severity)
        yield Fact(", ".join(wanted))


def _names(ctx: Context) -> dict[str, str]:
    """Host names by what needs them; addresses are not names."""
    found: dict[str, str] = {}
    infra, agent = ctx.cfg.infrastructure, ctx.cfg.harbor_agent
    if infra.nnodes > 1 and infra.node0_ip:
        found[infra.node0_ip] = "infrastructure.node0_ip"
    host = urlsplit(agent.docker_host or ctx.env.get("DOCKER_HOST", "")).hostname
    if ctx.backend == "docker" and host:
        found[host] = "harbor_agent.docker_host"
    if ctx.backend == "kubernetes" and (cluster := _cluster(ctx)) is not None:
        found[urlsplit(cluster.server).hostname or ""] = "k8s.kubeconfig"
    if ctx.backend in {"docker", "kubernetes"}:
        images = [agent.runtime_image] if agent.runtime_image else []
        try:
            images += [image for split in ("val", "train") for row in ctx.rows(split)[:4] if (image := image_of(row))]
        except NotApplicable:
            images += []  # the index is not there: SWERL-P401 says so
        for image in images:
            found.setdefault(Image.parse(image).registry.partition(":")[0], f"image {image}")
    if ctx.cfg.credentials.wandb_mode == "online" and "wandb" in ctx.cfg.experiment.logger and ctx.cfg.secrets.wandb_api_key:
        found[urlsplit(ctx.env.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""] = "W&B"
    return {name: why for name, why in found.items() if name and not _IP.search(name) and name != "localhost"}


def _cluster(ctx: Context) -> Cluster | None:
    try:
        return cluster_of(ctx)
    except KubeError:
        return None  # SWERL-P504 says why


class ClocksAgree(Check):
    id = "SWERL-P514"
    family = "sandbox"
    title = "clocks"
    asks = f"the clock of the cluster or the Docker daemon is within {SKEW_S:.0f} s of this host's: tokens and certificates go by it"
    remedy = "let NTP set both clocks"
    severity = "warning"
    live = True
    budget_s = 9.0

    def run(self, ctx: Context) -> Iterator[Finding]:
        if ctx.backend == "docker":
            host = ctx.cfg.harbor_agent.docker_host
            answer = ctx.ask(["docker", "info", "--format", "{{.SystemTime}}"], timeout_s=6.0, env=client(ctx))
            there = _iso(answer.out.strip()) if answer.ok else None
            where = host or "the Docker daemon"
        elif ctx.backend == "kubernetes":
            cluster = _cluster(ctx)
            there = None if cluster is None else _date(cluster.date())
            where = cluster.server if cluster else ""
        else:
            raise NotApplicable(f"the sandbox is {ctx.backend}: one clock")
        if there is None:
            raise NotApplicable("it does not tell its time (SWERL-P503, SWERL-P504)")
        skew = there - time.time()
        if abs(skew) > SKEW_S:
            yield self.found(f"{where} is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} this host", where)
        yield Fact(f"{skew:+.1f} s")


def _iso(text: str) -> float | None:
    """Docker's time has nanoseconds, which ``fromisoformat`` does not read."""
    from datetime import datetime

    try:
        return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text)).timestamp()
    except ValueError:
        return None


def _date(header: str | None) -> float | None:
    try:
        return None if header is None else parsedate_to_datetime(header).timestamp()
    except ValueError:
        return None


class QuotaIsEnough(Check):
    id = "SWERL-P515"
    family = "sandbox"
    title = "quota"
    asks = "the namespace's resource quotas leave room for as many sandboxes as are run at once"
    remedy = "lower harbor_runtime.num_workers or what a sandbox asks for, or have the quota raised"
    live = True
    budget_s = 9.0

    def run(self, ctx: Context) -> Iterator[Finding]:
        if ctx.backend != "kubernetes":
            raise NotApplicable(f"the sandbox is {ctx.backend}")
        cluster, namespace = _cluster(ctx), ctx.cfg.k8s.namespace
        if cluster is None:
            raise NotApplicable("the kubeconfig cannot be read (SWERL-P504)")
        try:
            quotas = cluster.ask(f"/api/v1/namespaces/{namespace}/resourcequotas")["items"]
        except KubeError as error:
            raise NotApplicable(f"quotas cannot be read: {error}") from error
        workers, agent = ctx.cfg.harbor_runtime.num_workers, ctx.cfg.harbor_agent
        cpus, memory = agent.environment_override_cpus or 0, (agent.environment_override_memory_mb or 0) * 10**6
        need = {"pods": workers, "count/pods": workers}
        need |= dict.fromkeys(("cpu", "requests.cpu"), workers * cpus) | dict.fromkeys(("memory", "requests.memory"), workers * memory)
        for quota in quotas:
            status = quota.get("status", {})
            for name, hard in status.get("hard", {}).items():
                left = _quantity(hard) - _quantity(status.get("used", {}).get(name, "0"))
                if need.get(name, 0) > left:
                    text = f"{workers} sandboxes need {_amount(name, need[name])} of {name}, quota {quota['metadata']['name']} leaves"
                    yield self.found(f"{text} {_amount(name, left)}", ctx.source("harbor_runtime.num_workers"))
        yield Fact(f"{len(quotas)} quota(s)")


def _quantity(text: str) -> float:
    """Kubernetes' numbers: 500m, 2, 64Gi."""
    match = re.fullmatch(r"([\d.]+)([a-zA-Z]*)", text)
    return float(match[1]) * _QUANTITY.get(match[2], 1) if match else 0.0


def _amount(name: str, number: float) -> str:
    return size(number) if "memory" in name else f"{number:g}"


class DockerCertificates(Check):
    id = "SWERL-P516"
    family = "sandbox"
    title = "Docker's certificates"
    asks = "with DOCKER_TLS_VERIFY, the directory of DOCKER_CERT_PATH holds ca.pem, cert.pem and key.pem, and nobody else reads the key"
    remedy = "set DOCKER_CERT_PATH to the directory with the client's certificates"

    def run(self, ctx: Context) -> Iterator[Finding]:
        if ctx.backend != "docker" or not ctx.env.get("DOCKER_TLS_VERIFY"):
            raise NotApplicable("no Docker daemon is spoken to by TLS")
        folder = Path(ctx.env.get("DOCKER_CERT_PATH") or ctx.host.home / ".docker")
        missing = [name for name in ("ca.pem", "cert.pem", "key.pem") if not (folder / name).is_file()]
        if missing:
            yield self.found(f"{', '.join(missing)} not there", str(folder))
        elif (folder / "key.pem").stat().st_mode & 0o077:
            yield self.found("the key is readable by others", str(folder / "key.pem"), severity="warning", remedy="chmod 600 key.pem")
        yield Fact(str(folder))


def _rate(file: BinaryIO) -> float:
    began = time.monotonic()
    read = len(file.read(CHUNK))
    return read / max(1e-6, time.monotonic() - began)


class FilesCanBeWatched(Check):
    id = "SWERL-P712"
    family = "host"
    title = "inotify"
    asks = "the kernel lets this user watch as many files as Ray, agents and containers will"
    remedy = "sysctl fs.inotify.max_user_instances=8192 fs.inotify.max_user_watches=1048576"
    severity = "warning"
    live = True

    def run(self, ctx: Context) -> Iterator[Finding]:
        if not ctx.sandbox_is_local:
            raise NotApplicable("the sandboxes run elsewhere")
        folder = ctx.host.proc / "sys" / "fs" / "inotify"
        if not folder.is_dir():
            raise NotApplicable("the kernel does not tell its limits")
        instances, watches = (int((folder / name).read_text()) for name in ("max_user_instances", "max_user_watches"))
        need = 2 * ctx.cfg.harbor_runtime.num_workers + 64
        if instances < need:
            yield self.found(f"max_user_instances is {instances}, about {need} are needed", str(folder / "max_user_instances"))
        if watches < 8192:
            yield self.found(f"max_user_watches is {watches}", str(folder / "max_user_watches"))
        yield Fact(f"{instances} instances, {watches:,} watches")


class PolicyIsReadFast(Check):
    id = "SWERL-P713"
    family = "host"
    title = "rate of the disk"
    asks = "the policy is read from its disk at a rate that loads it in minutes (a sample of 32 MiB, past the page cache)"
    remedy = "copy the policy to a local disk"
    severity = "warning"
    live = True
    budget_s = 6.0

    def run(self, ctx: Context) -> Iterator[Finding]:
        ctx.filled("model.model_path", ctx.cfg.model.model_path)
        files = sorted(ctx.cfg.model.model_path.glob("*.safetensors"), key=lambda p: -p.stat().st_size)
        total = sum(path.stat().st_size for path in files)
        if total < 256 << 20:
            raise NotApplicable("the policy is small")
        with files[0].open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, CHUNKS * CHUNK, os.POSIX_FADV_DONTNEED)
            rate = max(_rate(file) for _ in range(CHUNKS))  # the best: a busy processor is not a slow disk
        seconds = total / rate
        if seconds > SLOW_S:
            text = f"{size(total)} at {size(rate)}/s take {seconds / 60:.0f} minutes, at every start"
            yield self.found(text, str(files[0]), severity="note" if ctx.is_busy else None)
        yield Fact(f"{size(rate)}/s" + (" or more" if rate > 4 * GIB else ""))


# By family, as the report groups them.
SANDBOX_CHECKS = (ClocksAgree(), QuotaIsEnough(), DockerCertificates())
HOST_CHECKS = (NamesResolve(), FilesCanBeWatched(), PolicyIsReadFast())
