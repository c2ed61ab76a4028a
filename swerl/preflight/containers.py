"""Family `sandbox`: a Docker engine, and whether containers of it can be kept to the gateway alone."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from urllib.parse import urlsplit

from swerl.preflight.check import Check, Fact, Finding, NotApplicable
from swerl.preflight.context import Context

_SYS_ADMIN = 21  # the capability that entering another network namespace takes
_EVERYBODY = ["0", "0", "4294967295"]  # a user namespace in which ids are the host's own


class DockerAnswers(Check):
    id = "SWERL-P503"
    family = "sandbox"
    title = "Docker"
    asks = "the Docker daemon answers, has the compose plugin that Harbor uses, and is not open to the network without TLS"
    remedy = "start the daemon, install the package docker-compose-plugin, or set harbor_agent.docker_host"
    live = True
    budget_s = 9.0
    hung = "fatal"
    faults = (9,)

    def run(self, ctx: Context) -> Iterator[Finding]:
        if ctx.backend != "docker":
            raise NotApplicable(f"the sandbox is {ctx.backend}")
        where = ctx.source("harbor_agent.environment_import_path")
        env = client(ctx)
        host = env.get("DOCKER_HOST", "")
        parts = urlsplit(host)
        if parts.scheme == "tcp" and parts.port == 2375 and not ctx.env.get("DOCKER_TLS_VERIFY"):
            yield self.found(
                f"{host} is the daemon's unprotected port: whoever reaches it is root there",
                ctx.source("harbor_agent.docker_host"),
                severity="warning",
                remedy="serve the daemon on 2376 with TLS and set DOCKER_TLS_VERIFY=1 and DOCKER_CERT_PATH",
            )
        if ctx.program("docker") is None:
            yield self.found("the docker command is not installed", where)
            return
        daemon = ctx.ask(["docker", "info", "--format", "{{.ServerVersion}}"], timeout_s=6.0, env=env)
        if not daemon.ok:
            yield self.found(f"the daemon does not answer: {daemon.complaint}", host or where)
        compose = ctx.ask(["docker", "compose", "version", "--short"], timeout_s=6.0, env=env)
        if not compose.ok:
            yield self.found(
                "the compose plugin is missing (`docker compose version` fails)", where, remedy="install docker-compose-plugin"
            )
        if daemon.ok and compose.ok:
            yield Fact(f"daemon {daemon.out.strip()}, compose {compose.out.strip()}")


class GatewayIntoContainers(Check):
    """What the runner says with SWERL-T054 of the first trial, before there is one."""

    id = "SWERL-P517"
    family = "sandbox"
    title = "gateway in containers"
    asks = "the runner may open the gateway's port inside Docker's containers: as root, beside an engine that is not rootless"
    remedy = "run as root beside the engine; or set harbor_runtime.sandbox.network to none (agents outside the sandbox) or to public"
    live = True
    budget_s = 9.0

    def run(self, ctx: Context) -> Iterator[Finding]:
        if ctx.backend != "docker" or ctx.cfg.harbor_runtime.sandbox.network != "gateway":
            raise NotApplicable("no container has the gateway for its only way out")
        if ctx.program("docker") is None:
            raise NotApplicable("the docker command is not installed (SWERL-P503)")
        env, where = client(ctx), ctx.source("harbor_runtime.sandbox.network")
        host = env.get("DOCKER_HOST", "")
        if not host:
            context = ctx.ask(["docker", "context", "inspect", "--format", "{{.Endpoints.docker.Host}}"], timeout_s=3.0, env=env)
            host = context.out.strip() if context.ok else ""
        if host and not host.startswith("unix://"):
            yield self.found(f"network gateway is asked for, and the engine is elsewhere, at {host}", where)
            return
        told = ctx.ask(["docker", "info", "--format", "{{json .SecurityOptions}} {{.OperatingSystem}}"], timeout_s=4.0, env=env)
        if not told.ok:
            raise NotApplicable("the daemon does not answer (SWERL-P503)")
        for why in (_of_this_process(ctx), _of_the_engine(told.out), _of_its_place(host.removeprefix("unix://"))):
            if why:
                yield self.found(f"network gateway is asked for, and {why}", where)
                return
        yield Fact("opened by the runner in each container")


def client(ctx: Context) -> dict[str, str]:
    """The environment of a docker command of this run."""
    host = ctx.cfg.harbor_agent.docker_host
    return {**ctx.env, **({"DOCKER_HOST": host} if host else {})}


def _of_this_process(ctx: Context) -> str:
    status = (ctx.host.proc / "self" / "status").read_text()
    held = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff:"))
    if not held >> _SYS_ADMIN & 1:
        return "this process is not root: it may not enter a container's network (CAP_SYS_ADMIN)"
    if (ctx.host.proc / "self" / "uid_map").read_text().split() != _EVERYBODY:
        return "this process is root of a user namespace only: it may not enter a container's network"
    return ""


def _of_the_engine(told: str) -> str:
    if "name=rootless" in told:
        return "the engine is rootless: its containers are in a user namespace of its own"
    if "Docker Desktop" in told:
        return "the engine is Docker Desktop's: its containers are in a virtual machine"
    return ""


def _of_its_place(path: str) -> str:
    """Whether the engine's processes are among those of this /proc: who listens on its socket has a number here."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(2.0)
        try:
            probe.connect(path or "/var/run/docker.sock")
        except OSError:
            return ""  # the client knows another way to it
        pid, _, _ = struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return "" if pid else "the engine runs beside another /proc: share the host's process namespace"


CHECKS = (DockerAnswers(), GatewayIntoContainers())
