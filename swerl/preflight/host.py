"""Family `host`: ports, disk and memory of the machine that starts the run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from swerl.facts.memory import GIB, disk, forecast, size
from swerl.facts.plan import plan_of
from swerl.preflight.check import Check, Fact, Finding, NotApplicable
from swerl.preflight.context import Context

_OTHER_DISK = 5 * GIB  # logs, trials, gateway journal


@dataclass(frozen=True, slots=True)
class Listener:
    port: int
    pid: int | None
    text: str


def listeners(ctx: Context) -> dict[int, Listener]:
    """Who listens on which TCP port of this host."""

    def look() -> dict[int, Listener]:
        found = {}
        for c in psutil.net_connections(kind="tcp"):
            if c.status == psutil.CONN_LISTEN:
                found[c.laddr.port] = Listener(c.laddr.port, c.pid, _describe(c.pid))
        return found

    return ctx.once("listeners", look)


def _describe(pid: int | None) -> str:
    if pid is None:
        return "a process of another user or container"
    try:
        process = psutil.Process(pid)
        command = " ".join(process.cmdline())[:100] or process.name()
        return f"pid {pid} of {process.username()}: {command}"
    except psutil.Error:
        return f"pid {pid}"


class PortsAreFree(Check):
    id = "SWERL-P701"
    family = "host"
    title = "ports"
    asks = "the ports of gateway and Ray are free; agents would talk to a stale listener and every trial would time out"
    remedy = "end the process named if it is yours (`swerl stop` for a run), or set another port"
    live = True
    faults = (16,)

    def run(self, ctx: Context) -> Iterator[Finding]:
        infra = ctx.cfg.infrastructure
        wanted = {"litellm_port": infra.litellm_port}
        if infra.nnodes > 1:
            wanted["ray_port"] = infra.ray_port
        if infra.nnodes > 1 or infra.device == "cuda":  # Ray ends at its start when the port of its dashboard is taken
            wanted["ray_dashboard_port"] = infra.ray_dashboard_port
        taken = listeners(ctx)
        for key, port in wanted.items():
            if port in taken and ctx.is_leftover(taken[port].pid):
                yield Fact(f"port {port} is held by a leftover of this run, which its start ends")
            elif port in taken:
                yield self.found(f"{key} {port} is taken by {taken[port].text}", ctx.source(f"infrastructure.{key}"))
        if len(set(wanted.values())) < len(wanted):
            yield self.found("two of the ports are the same: " + ", ".join(f"{k} {p}" for k, p in wanted.items()), "infrastructure")
        yield Fact(", ".join(f"{k.removesuffix('_port')} {p}" for k, p in wanted.items()))


class RayIsOurs(Check):
    id = "SWERL-P702"
    family = "host"
    title = "Ray"
    asks = "no other Ray cluster would be joined: its workers have another environment, and it belongs to somebody"
    remedy = "unset RAY_ADDRESS; swerl starts its own Ray in a directory of its own and ends only that"
    live = True
    faults = (7,)

    def run(self, ctx: Context) -> Iterator[Finding]:
        address = ctx.env.get("RAY_ADDRESS")
        if address:
            yield self.found(
                f"RAY_ADDRESS={address} is set: the trainer would join that cluster, whose workers do not see this environment",
                "RAY_ADDRESS",
            )
        marker = ctx.host.tmp / "ray" / "ray_current_cluster"
        if marker.is_file():
            yield self.found(f"another Ray cluster was started on this host ({marker.read_text().strip()})", str(marker), severity="note")


class DiskHolds(Check):
    id = "SWERL-P703"
    family = "host"
    title = "disk"
    asks = "the disk of the runs directory holds the checkpoints this run will keep, and it can be written"
    remedy = "free space, lower training.max_checkpoints, raise training.save_freq, or set experiment.runs_dir to a larger disk"
    live = True
    budget_s = 4.0
    hung = "fatal"

    def run(self, ctx: Context) -> Iterator[Finding]:
        runs_dir = ctx.cfg.experiment.runs_dir
        parent = existing_parent(runs_dir)
        if not os.access(parent, os.W_OK | os.X_OK):
            yield self.found(
                f"{parent} cannot be written", ctx.source("experiment.runs_dir"), remedy="set experiment.runs_dir to a place you may write"
            )
            return
        free = shutil.disk_usage(parent).free
        yield Fact(f"{size(free)} free under {parent}")
        store = disk(ctx.shape(), plan_of(ctx.cfg, steps=ctx.steps(), gpu_memory_bytes=None))
        if store.peak_bytes is None:
            raise NotApplicable("the number of checkpoints is not known: training.total_steps is empty and the index cannot be read")
        need = store.peak_bytes + _OTHER_DISK
        kept = ctx.run_dir.checkpoints
        already = sum(f.stat().st_size for f in kept.rglob("*") if f.is_file()) if kept.is_dir() else 0
        if free + already < need:
            at_once = round(store.peak_bytes / store.save_bytes)
            yield self.found(
                f"{size(need)} are needed ({store.saves} saves of {size(store.save_bytes)}, {at_once} at once; logs and trials),"
                f" {size(free)} are free",
                str(parent),
            )
        else:
            yield Fact(f"{size(need)} needed")


def existing_parent(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


class SharedMemory(Check):
    id = "SWERL-P704"
    family = "host"
    title = "shared memory"
    asks = "/dev/shm has room: Ray's object store and the weight transfer live there, and a full one ends processes with SIGBUS"
    remedy = "remove leftovers of ended processes from /dev/shm, or mount it larger (docker: --shm-size)"
    live = True
    faults = (32,)

    def run(self, ctx: Context) -> Iterator[Finding]:
        shm = ctx.host.shm
        if not shm.is_dir():
            yield self.found(f"{shm} does not exist", str(shm))
            return
        usage = shutil.disk_usage(shm)
        store = (ctx.cfg.infrastructure.object_store_mb or 2048) << 20
        need = store + (1 << 28)
        if usage.free < need:
            largest = sorted(((f.stat().st_size, f.name) for f in shm.iterdir() if f.is_file()), reverse=True)[:3]
            held = ", ".join(f"{name} {size(amount)}" for amount, name in largest)
            yield self.found(
                f"{size(usage.free)} free of {size(usage.total)}, {size(need)} needed" + (f"; largest: {held}" if held else ""), str(shm)
            )
        elif ctx.cfg.infrastructure.object_store_mb is None and usage.free < (wanted := self._rays_own(ctx)):
            text = f"{size(usage.free)} free: Ray would take {size(wanted)} for its object store, and puts it on the disk of /tmp instead"
            remedy = "mount /dev/shm larger (docker: --shm-size), or set infrastructure.object_store_mb to less than is free"
            yield self.found(text, str(shm), severity="warning", remedy=remedy)
        elif usage.free < usage.total / 2:
            yield self.found(f"{shm} is {1 - usage.free / usage.total:.0%} full", str(shm), severity="warning")
        yield Fact(f"{size(usage.free)} free of {size(usage.total)}")

    @staticmethod
    def _rays_own(ctx: Context) -> int:
        """The least that Ray chooses for its store by itself: 30 % of the memory, capped at what /dev/shm has, but not below 10 GB."""
        return min(10**10, int(0.3 * usable_memory(ctx)[0]))


class HostMemory(Check):
    id = "SWERL-P705"
    family = "host"
    title = "memory"
    asks = "sandboxes, offloaded optimizer states and the processes fit together into what this host, or this container, may use"
    remedy = (
        "lower harbor_runtime.num_workers or harbor_agent.environment_override_memory_mb, or set training.actor_offload: false where the"
        " GPUs have room"
    )
    severity = "warning"
    live = True
    faults = (31,)

    def run(self, ctx: Context) -> Iterator[Finding]:
        total, whose = usable_memory(ctx)
        agent = ctx.cfg.harbor_agent
        if ctx.sandbox_is_local and agent.environment_override_memory_mb is None:
            yield self.found(
                "sandboxes have no memory limit: one of them can take the host down",
                ctx.source("harbor_agent.environment_override_memory_mb"),
                remedy="set harbor_agent.environment_override_memory_mb",
            )
        parts = self._parts(ctx)
        need = sum(parts.values())
        said = ", ".join(f"{name} {size(amount)}" for name, amount in parts.items() if amount)
        if parts["offloaded states"] > total:
            remedy = "set training.actor_offload: false where the GPUs have room, or train on more nodes"
            text = f"offloaded states alone need {size(parts['offloaded states'])}, {whose} {size(total)}"
            yield self.found(text, ctx.source("training.actor_offload"), severity="fatal", remedy=remedy)
        elif need > total:
            yield self.found(f"about {size(need)} are needed ({said}), {whose} {size(total)}", ctx.source("harbor_runtime.num_workers"))
        yield Fact(f"about {size(need)} of {size(total)}: {said}")

    def _parts(self, ctx: Context) -> dict[str, int]:
        plan = plan_of(ctx.cfg, steps=ctx.steps(), gpu_memory_bytes=None)
        try:
            host = forecast(ctx.shape(), plan).host
        except NotApplicable:  # the policy cannot be read (SWERL-P101): what is left is the sandboxes
            return {"sandboxes": plan.live_trials * plan.sandbox_bytes, "offloaded states": 0}
        return {
            "sandboxes": host.sandbox_bytes,
            "offloaded states": host.offload_bytes,
            "processes": host.process_bytes,
            "object store and a step's data": host.store_bytes + host.data_bytes,
        }


def usable_memory(ctx: Context) -> tuple[int, str]:
    """Bytes that this process and its children may use, and whose limit that is: the machine's, or that of a control group they are in."""
    total, whose = meminfo(ctx)["MemTotal"], "this host has"
    for line in (ctx.host.proc / "self" / "cgroup").read_text().splitlines():
        _, kinds, path = line.split(":", 2)
        if kinds not in ("", "memory"):
            continue
        root, name = (ctx.host.cgroup, "memory.max") if not kinds else (ctx.host.cgroup / "memory", "memory.limit_in_bytes")
        here = root / path.strip("/")
        for group in (here, *here.parents):
            limit = (group / name).read_text().strip() if (group / name).is_file() else ""
            if limit.isdigit() and int(limit) < total:
                total, whose = int(limit), "this container may use"
            if group == root:
                break
    return total, whose


def meminfo(ctx: Context) -> dict[str, int]:
    """Bytes by name from /proc/meminfo."""
    lines = (ctx.host.proc / "meminfo").read_text().splitlines()
    return {name: int(rest.split()[0]) * 1024 for name, rest in (line.split(":", 1) for line in lines)}


class NoProxies(Check):
    id = "SWERL-P707"
    family = "host"
    title = "proxies"
    asks = "no proxy in the environment would carry local requests away from gateway and runner"
    remedy = "add 127.0.0.1,localhost and infrastructure.node0_ip to NO_PROXY"
    severity = "warning"

    def run(self, ctx: Context) -> Iterator[Finding]:
        exempt = {part.strip() for name in ("no_proxy", "NO_PROXY") for part in ctx.env.get(name, "").split(",")}
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            if ctx.env.get(name) and "*" not in exempt:
                missing = [h for h in ("127.0.0.1", "localhost", ctx.cfg.infrastructure.node0_ip) if h and h not in exempt]
                if missing:
                    yield self.found(f"{name} is set and NO_PROXY lacks {', '.join(dict.fromkeys(missing))}", name)
                    return


CHECKS = (PortsAreFree(), RayIsOurs(), DiskHolds(), SharedMemory(), HostMemory(), NoProxies())
