"""Family `host`: ports, disk, memory, limits and leftovers of the machine that starts the run."""

from __future__ import annotations

import os
import re
import resource
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from swerl.preflight.check import Check, Fact, Finding, NotApplicable
from swerl.preflight.context import Context
from swerl.preflight.forecast import GIB, disk, size
from swerl.preflight.plan import plan_of

MINIMUM_OPEN_FILES = 4096
MINIMUM_PROCESSES = 4096
NETWORK_FILE_SYSTEMS = {
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "ceph",
    "lustre",
    "gpfs",
    "beegfs",
    "fuse.cpfs",
    "cpfs",
    "glusterfs",
    "fuse.sshfs",
    "9p",
}
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
            wanted |= {"ray_port": infra.ray_port, "ray_dashboard_port": infra.ray_dashboard_port}
        taken = listeners(ctx)
        for key, port in wanted.items():
            if port in taken and ctx.is_leftover(taken[port].pid):
                yield Fact(f"port {port} is held by a leftover of this run, which its start ends")
            elif port in taken:
                yield self.found(f"port {port} is taken by {taken[port].text}", ctx.source(f"infrastructure.{key}"))
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
        elif usage.free < usage.total / 2:
            yield self.found(f"{shm} is {1 - usage.free / usage.total:.0%} full", str(shm), severity="warning")
        yield Fact(f"{size(usage.free)} free of {size(usage.total)}")


class HostMemory(Check):
    id = "SWERL-P705"
    family = "host"
    title = "memory"
    asks = "sandboxes and offloaded optimizer states fit the host's memory together"
    remedy = "lower harbor_runtime.num_workers or harbor_agent.environment_override_memory_mb"
    severity = "warning"
    live = True
    faults = (31,)

    def run(self, ctx: Context) -> Iterator[Finding]:
        total = int(_meminfo(ctx)["MemTotal"])
        agent, workers = ctx.cfg.harbor_agent, ctx.cfg.harbor_runtime.num_workers
        if not ctx.sandbox_is_local:
            raise NotApplicable("the sandboxes run elsewhere")
        if agent.environment_override_memory_mb is None:
            yield self.found(
                "sandboxes have no memory limit: one of them can take the host down",
                ctx.source("harbor_agent.environment_override_memory_mb"),
                remedy="set harbor_agent.environment_override_memory_mb",
            )
            return
        need = workers * agent.environment_override_memory_mb << 20
        if need > total:
            yield self.found(
                f"{workers} sandboxes of {agent.environment_override_memory_mb} MB may use {size(need)} of {size(total)}",
                ctx.source("harbor_runtime.num_workers"),
            )
        yield Fact(f"{workers} sandboxes of {agent.environment_override_memory_mb} MB, {size(total)} in all")


def _meminfo(ctx: Context) -> dict[str, int]:
    """Bytes by name from /proc/meminfo."""
    lines = (ctx.host.proc / "meminfo").read_text().splitlines()
    return {name: int(rest.split()[0]) * 1024 for name, rest in (line.split(":", 1) for line in lines)}


class Limits(Check):
    id = "SWERL-P706"
    family = "host"
    title = "limits of this shell"
    asks = "open files and processes are not limited to less than Ray, vLLM and the sandboxes need"
    remedy = "raise the limit (ulimit -n, ulimit -u, or /etc/security/limits.conf)"
    severity = "warning"

    def run(self, ctx: Context) -> Iterator[Finding]:
        for name, what, minimum in (
            ("open files", resource.RLIMIT_NOFILE, MINIMUM_OPEN_FILES),
            ("processes", resource.RLIMIT_NPROC, MINIMUM_PROCESSES),
        ):
            soft, hard = resource.getrlimit(what)
            if soft != resource.RLIM_INFINITY and soft < minimum:
                allowed = "unlimited" if hard == resource.RLIM_INFINITY else hard
                yield self.found(f"{soft} {name} allowed, {minimum} wanted (hard limit {allowed})", "ulimit")
        yield Fact(f"{resource.getrlimit(resource.RLIMIT_NOFILE)[0]} open files")


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


class ControlGroups(Check):
    id = "SWERL-P708"
    family = "host"
    title = "control groups"
    asks = "the kernel does not carry many thousands of dead control groups, which make every sandbox start slower than the one before"
    remedy = "reboot the host, or use a kernel from 6.10 on"
    severity = "warning"
    live = True
    faults = (5,)

    def run(self, ctx: Context) -> Iterator[Finding]:
        table = ctx.host.proc / "cgroups"
        if not table.is_file():
            raise NotApplicable("this kernel has no /proc/cgroups")
        counts = {f[0]: int(f[2]) for f in (line.split() for line in table.read_text().splitlines()) if f and not f[0].startswith("#")}
        number = max(counts.values(), default=0)
        percpu = _meminfo(ctx).get("Percpu", 0)
        severe = number > 100_000 or percpu > 50 * GIB
        if number > 50_000 or percpu > 20 * GIB:
            yield self.found(
                f"{number:,} control groups, {size(percpu)} of per-CPU memory", str(table), severity="fatal" if severe else "warning"
            )
        yield Fact(f"{number}")


class FileSystems(Check):
    id = "SWERL-P709"
    family = "host"
    title = "file systems"
    asks = "environment and policy lie on a local disk: from a network file system every process imports for minutes"
    remedy = "copy environment.venv_path (and the policy) to a local disk of each node"
    severity = "warning"
    live = True
    faults = (3, 24)

    def run(self, ctx: Context) -> Iterator[Finding]:
        mounts = read_mounts(ctx)
        for key, path in (("environment.venv_path", ctx.cfg.environment.venv_path), ("model.model_path", ctx.cfg.model.model_path)):
            kind = file_system_of(path, mounts)
            if kind in NETWORK_FILE_SYSTEMS:
                fatal = key == "environment.venv_path" and ctx.cfg.vllm.gen_tp > 1
                note = "; the workers of a tensor-parallel engine time out waiting for each other" if fatal else ""
                yield self.found(f"{key} {path} lies on {kind}{note}", ctx.source(key), severity="fatal" if fatal else "warning")


def read_mounts(ctx: Context) -> list[tuple[str, str]]:
    """(mount point, file system type), innermost last."""
    found = []
    for line in (ctx.host.proc / "self" / "mountinfo").read_text().splitlines():
        head, _, tail = line.partition(" - ")
        found.append((re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), head.split()[4]), tail.split()[0]))
    return found


def file_system_of(path: Path, mounts: list[tuple[str, str]]) -> str:
    real = os.path.realpath(path)
    best, kind = "", ""
    for point, name in mounts:
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, name
    return kind


class KernelCache(Check):
    id = "SWERL-P710"
    family = "host"
    title = "compiled kernels"
    asks = "cached GPU kernels were built in an environment that still exists"
    remedy = "remove the directory named; it is built anew"
    severity = "fatal"
    live = True
    faults = (6,)

    def run(self, ctx: Context) -> Iterator[Finding]:
        if ctx.on_cpu:
            raise NotApplicable("infrastructure.device is cpu")
        cache = ctx.host.home / ".cache" / "flashinfer"
        for ninja in sorted(cache.rglob("build.ninja")) if cache.is_dir() else ():
            gone = [p for p in re.findall(r"(/\S+?/site-packages)\b", ninja.read_text(errors="replace")) if not Path(p).is_dir()]
            if gone:
                yield self.found(f"{ninja} was built with {gone[0]}, which is gone", str(cache))
                return


class Leftovers(Check):
    id = "SWERL-P711"
    family = "host"
    title = "leftovers of this run"
    asks = "no process of an earlier start of this run is still alive without a supervisor"
    remedy = "`swerl stop` ends what belongs to this run; the next `swerl train` does so too"
    severity = "warning"
    live = True
    budget_s = 5.0

    def run(self, ctx: Context) -> Iterator[Finding]:
        from swerl.runs.process import TOKEN_VARIABLE, owned_processes

        token_file = ctx.run_dir.token
        if not token_file.is_file():
            raise NotApplicable("this run has not been started before")
        found = owned_processes({TOKEN_VARIABLE: token_file.read_text().strip()}, ())
        if found:
            named = ", ".join(f"{seen.command} (pid {seen.pid})" for seen in found[:3])
            yield self.found(f"{len(found)} process(es) of an earlier start are alive: {named}", str(ctx.cfg.run_dir))


CHECKS = (
    PortsAreFree(),
    RayIsOurs(),
    DiskHolds(),
    SharedMemory(),
    HostMemory(),
    Limits(),
    NoProxies(),
    ControlGroups(),
    FileSystems(),
    KernelCache(),
    Leftovers(),
)
