"""Family `sandbox`: where agents work, from the clock to the network."""

from __future__ import annotations

import math
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import orjson

from swerl.preflight.check import Check, Fact, Finding, NotApplicable
from swerl.preflight.context import Context
from swerl.trials.sandboxes import limits

PROBE = Path(__file__).with_name("sandbox_probe.py")
LONG_VALIDATION_S = 6 * 3600
POD_NAME_LIMIT, TRIAL_NAME_LENGTH = 63, 41  # a pod's name is prefix, dash, and a trial's name with its random suffix
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_ENTRY_OVERHEAD_S = 120


class SandboxStarts(Check):
    id = "SWERL-P502"
    family = "sandbox"
    title = "sandbox"
    asks = "a sandbox of this run starts, runs a command, and reaches the gateway's address and nothing else"
    remedy = "install bubblewrap and allow user namespaces (sysctl kernel.unprivileged_userns_clone=1), or choose another sandbox"
    live = True
    budget_s = 10.0
    hung = "fatal"

    def run(self, ctx: Context) -> Iterator[Finding]:
        if ctx.backend != "bubblewrap":
            raise NotApplicable(f"the sandbox is {ctx.backend}")
        where = ctx.source("harbor_agent.environment_import_path")
        if ctx.program("bwrap") is None:
            yield self.found(
                "bubblewrap (bwrap) is not installed", where, remedy="install the package bubblewrap, or choose another sandbox"
            )
            return
        python = ctx.cfg.environment.trials_venv_path / "bin" / "python"
        if not python.exists():
            raise NotApplicable("the trials environment is missing (SWERL-P801)")
        sandbox, agent = ctx.cfg.harbor_runtime.sandbox, ctx.cfg.harbor_agent
        asked = {
            "rootfs": str(sandbox.rootfs) if sandbox.rootfs else None,
            "network": sandbox.network,
            "memory_mb": agent.environment_override_memory_mb,
            "processes": sandbox.max_processes,
            "file_mb": sandbox.max_file_mb,
        }
        answer = ctx.ask([str(python), "-P", str(PROBE)], timeout_s=9.0, stdin=orjson.dumps(asked).decode())
        lines = answer.out.strip().splitlines()
        if not answer.ok or not lines:
            yield self.found(f"it does not start: {answer.complaint or f'the probe ended with {answer.code}'}", where)
            return
        said = orjson.loads(lines[-1])
        if said["error"]:
            yield self.found(f"it does not start: {said['error']}", where)
            return
        if said["code"] != 0 or said["out"].strip() != "swerl":
            yield self.found(f"a command in it ended with {said['code']} and printed {said['out'][:80]!r}", where)
        if sandbox.network == "gateway" and said["code"] == 0 and not said["gateway"]:
            yield self.found("the gateway's port does not answer in it", where)
        for gap in said["missing"]:
            yield self.found(
                f"this machine cannot enforce {gap}", where, severity="note", remedy="run as root with writable control groups"
            )
        if sandbox.network != "public" and said["network"]:
            yield self.found(f"it can reach {said['network']}, though harbor_runtime.sandbox.network is {sandbox.network}", where)
        yield Fact(f"started in {said['start_s']:.2f} s, network {sandbox.network}")


class AgentCanRun(Check):
    id = "SWERL-P505"
    family = "sandbox"
    title = "agent"
    asks = "the agent is in the sandbox when a trial starts: mounted from an image, part of the task's image, or a process of the host"
    remedy = (
        "set harbor_agent.runtime_image, runtime_mount_path and runtime_image_subpath together,"
        " run `make agents` and name its directory in runtime_dir, mount the agent with host_path_mounts,"
        " or use an agent that runs on the host (mini, terminus-2)"
    )
    faults = (26, 30)

    def run(self, ctx: Context) -> Iterator[Finding]:
        agent = ctx.cfg.harbor_agent
        if not agent.agent_name and not agent.agent_import_path:
            raise NotApplicable("no agent is named (SWERL-P004)")
        named = agent.agent_import_path or agent.agent_name or ""
        installed = runs_inside(ctx)
        if agent.runtime_image and not agent.runtime_mount_path.startswith("/"):
            yield self.found(
                f"runtime_image {agent.runtime_image} without an absolute runtime_mount_path: the agent is not mounted",
                ctx.source("harbor_agent.runtime_mount_path"),
            )
        elif not agent.runtime_image and agent.runtime_mount_path:
            yield self.found(
                "runtime_mount_path without runtime_image: nothing would be mounted there", ctx.source("harbor_agent.runtime_image")
            )
        elif (
            installed
            and not agent.runtime_image
            and not agent.host_path_mounts
            and not agent.runtime_dir
            and ctx.cfg.harbor_runtime.sandbox.network != "public"
        ):
            yield self.found(
                f"{named} would be downloaded into every sandbox, which has no network",
                ctx.source("harbor_agent.agent_import_path"),
            )
        if agent.agent_name and agent.agent_import_path and _unlike(agent.agent_name, agent.agent_import_path):
            yield self.found(
                f"agent_name {agent.agent_name!r} is only a label: {agent.agent_import_path} runs",
                ctx.source("harbor_agent.agent_name"),
                severity="note",
            )
        yield Fact(named)


def runs_inside(ctx: Context) -> bool:
    """Whether the agent is a program in the sandbox rather than a process of the host."""
    agent = ctx.cfg.harbor_agent
    if agent.agent_import_path:
        return "agents.installed" in agent.agent_import_path
    return agent.agent_name not in {"terminus-2", "oracle", "nop"}


def _unlike(name: str, path: str) -> bool:
    def plain(text: str) -> str:
        return re.sub(r"[^a-z0-9]", "", text.lower())

    return plain(name) not in plain(path)


class ClocksAreOrdered(Check):
    id = "SWERL-P506"
    family = "sandbox"
    title = "time limits"
    asks = "each limit leaves room for what runs inside it: agent, verifier, whole trial, pod"
    remedy = "raise the outer limit or lower the inner one"
    severity = "warning"
    faults = (18,)

    def run(self, ctx: Context) -> Iterator[Finding]:
        agent, runtime, k8s = ctx.cfg.harbor_agent, ctx.cfg.harbor_runtime, ctx.cfg.k8s
        limit = agent_limit_s(ctx)
        if agent.override_timeout_sec and agent.override_timeout_sec > agent.max_timeout_sec:
            yield self.found(
                f"override_timeout_sec {agent.override_timeout_sec} is capped by max_timeout_sec {agent.max_timeout_sec}",
                ctx.source("harbor_agent.override_timeout_sec"),
            )
        if agent.override_timeout_sec is None:
            yield self.found(
                "override_timeout_sec is empty: each task's own time limit counts, max_timeout_sec only caps it",
                ctx.source("harbor_agent.override_timeout_sec"),
                severity="note",
            )
        if runtime.trial_hard_timeout_sec < limit + _ENTRY_OVERHEAD_S:
            yield self.found(
                f"trial_hard_timeout_sec {runtime.trial_hard_timeout_sec} leaves {runtime.trial_hard_timeout_sec - limit:.0f} s"
                f" for set-up and verifier after the agent's {limit:.0f} s",
                ctx.source("harbor_runtime.trial_hard_timeout_sec"),
            )
        if ctx.backend == "kubernetes" and k8s.pod_active_deadline_seconds < runtime.trial_hard_timeout_sec:
            yield self.found(
                f"pod_active_deadline_seconds {k8s.pod_active_deadline_seconds} ends pods before"
                f" trial_hard_timeout_sec {runtime.trial_hard_timeout_sec} does",
                ctx.source("k8s.pod_active_deadline_seconds"),
            )
        yield Fact(f"agent {limit:.0f} s, trial {runtime.trial_hard_timeout_sec} s")


def agent_limit_s(ctx: Context) -> float:
    agent = ctx.cfg.harbor_agent
    return min(agent.override_timeout_sec or agent.max_timeout_sec, agent.max_timeout_sec) * agent.agent_timeout_multiplier


class RetriesRemain(Check):
    id = "SWERL-P507"
    family = "sandbox"
    title = "attempts"
    asks = "a trial whose sandbox failed gets a second attempt"
    remedy = "set harbor_agent.max_retries to 2 or more (it counts attempts in total)"
    severity = "warning"
    faults = (38,)

    def run(self, ctx: Context) -> Iterator[Finding]:
        attempts = ctx.cfg.harbor_agent.max_retries
        if attempts < 2:
            yield self.found(
                f"max_retries {attempts}: a sandbox that fails to start loses its trial", ctx.source("harbor_agent.max_retries")
            )
        yield Fact(f"{attempts} in all")


class PodNamesFit(Check):
    id = "SWERL-P508"
    family = "sandbox"
    title = "pod names"
    asks = "pods of this run get different names: a name cut at 63 characters would make trials collide"
    remedy = f"shorten harbor_agent.pod_name_prefix to {POD_NAME_LIMIT - TRIAL_NAME_LENGTH - 1} characters of a-z, 0-9 and dash"
    faults = (37,)

    def run(self, ctx: Context) -> Iterator[Finding]:
        if ctx.backend != "kubernetes":
            raise NotApplicable(f"the sandbox is {ctx.backend}")
        prefix, where = ctx.cfg.harbor_agent.pod_name_prefix, ctx.source("harbor_agent.pod_name_prefix")
        if not _LABEL.fullmatch(prefix):
            yield self.found(f"pod_name_prefix {prefix!r} is no name a pod may have", where)
        elif len(prefix) + 1 + TRIAL_NAME_LENGTH > POD_NAME_LIMIT:
            yield self.found(f"pod_name_prefix of {len(prefix)} characters leaves too few for the trial's own name", where)


class GatewayIsReachable(Check):
    id = "SWERL-P509"
    family = "sandbox"
    title = "way back to the gateway"
    asks = "sandboxes that run elsewhere are given an address of this host that they can reach"
    remedy = "set infrastructure.node0_ip to this host's address in the sandboxes' network, and bind_host to it (or 0.0.0.0)"
    live = True

    def run(self, ctx: Context) -> Iterator[Finding]:
        infra = ctx.cfg.infrastructure
        address = infra.node0_ip
        if ctx.backend in {"bubblewrap", "other"}:
            raise NotApplicable(f"the sandbox is {ctx.backend}: it reaches the gateway through its own socket")
        if ctx.backend == "docker" and ctx.cfg.harbor_runtime.sandbox.network == "gateway":
            raise NotApplicable("the runner opens the gateway's port in each container (SWERL-P517)")
        if not runs_inside(ctx):
            raise NotApplicable("the agent is a process of this host")
        where = ctx.source("infrastructure.node0_ip")
        if _is_loopback(address):
            yield self.found(f"sandboxes are told {address}, which is themselves", where)
        elif address and not _is_here(address):
            yield self.found(f"node0_ip {address} is no address of this host", where)
        yield Fact(f"http://{address or '<first address>'}:{infra.litellm_port}")


def _is_loopback(address: str) -> bool:
    return address in {"localhost", "::1"} or address.startswith("127.")


def _is_here(address: str) -> bool:
    """Whether a socket can be bound to the address, which the kernel allows for this host's own only. Nothing listens."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


class GradedElsewhere(Check):
    id = "SWERL-P518"
    family = "sandbox"
    title = "where work is graded"
    asks = "the work of an agent is graded in a fresh sandbox, where the agent never was"
    remedy = "use bubblewrap, Docker or Kubernetes, or believe the rewards only as far as you trust the policy"
    severity = "warning"

    def run(self, ctx: Context) -> Iterator[Finding]:
        if ctx.backend == "other":
            agent = ctx.cfg.harbor_agent
            yield self.found(
                f"{agent.environment_import_path or agent.environment_type} grades in the agent's own sandbox, after its processes have"
                " been ended: what it planted there can speak to the grader",
                ctx.source("harbor_agent.environment_import_path"),
            )
        yield Fact("in a fresh sandbox")


class LimitsHold(Check):
    id = "SWERL-P519"
    family = "sandbox"
    title = "limits of the sandboxes"
    asks = "every limit of a sandbox can be enforced here; if not, a policy that is declared untrusted is refused"
    remedy = "run as root where control groups can be written, or choose Docker or Kubernetes"
    severity = "warning"

    def run(self, ctx: Context) -> Iterator[Finding]:
        untrusted, where = ctx.cfg.harbor_runtime.sandbox.untrusted, ctx.source("harbor_runtime.sandbox.untrusted")
        if ctx.backend == "other" and untrusted:
            agent = ctx.cfg.harbor_agent
            backend = agent.environment_import_path or agent.environment_type
            yield self.found(
                f"the policy is untrusted, and {backend} neither closes the network nor grades in a fresh sandbox",
                where,
                severity="fatal",
                remedy="use bubblewrap, Docker or Kubernetes, or declare the policy trusted",
            )
        if ctx.backend == "bubblewrap":
            for gap in limits.missing():
                yield self.found(f"not enforced here: {gap}", where, severity="fatal" if untrusted else "warning")
        yield Fact("all enforced")


class ValidationEnds(Check):
    id = "SWERL-P510"
    family = "sandbox"
    title = "validation"
    asks = "a validation of every task ends in hours, even if each trial uses all its time"
    remedy = "raise harbor_runtime.num_workers, lower training.val_n or the agent's time limit, or validate less often"
    severity = "warning"
    live = True
    faults = (18,)

    def run(self, ctx: Context) -> Iterator[Finding]:
        training, workers = ctx.cfg.training, ctx.cfg.harbor_runtime.num_workers
        if training.test_freq <= 0 and not training.val_before_train:
            raise NotApplicable("nothing is validated")
        trials = len(ctx.rows("val")) * training.val_n
        worst_s = math.ceil(trials / workers) * agent_limit_s(ctx)
        if worst_s > LONG_VALIDATION_S:
            yield self.found(
                f"{trials} trials on {workers} workers may take {worst_s / 3600:.1f} h if each uses its {agent_limit_s(ctx):.0f} s",
                ctx.source("harbor_runtime.num_workers"),
            )
        yield Fact(f"{trials} trials, at most {worst_s / 60:.0f} min")


CHECKS = (
    SandboxStarts(),
    AgentCanRun(),
    ClocksAreOrdered(),
    RetriesRemain(),
    PodNamesFit(),
    GatewayIsReachable(),
    GradedElsewhere(),
    LimitsHold(),
    ValidationEnds(),
)
