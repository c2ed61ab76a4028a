"""Family `host`, continued: the kernel, its limits and its file systems, and what earlier runs left on the machine."""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Iterator
from pathlib import Path

from swerl.facts.memory import GIB, size
from swerl.preflight.check import Check, Fact, Finding, NotApplicable
from swerl.preflight.configuration import is_held
from swerl.preflight.context import Context
from swerl.preflight.host import existing_parent, meminfo
from swerl.record.process import TOKEN_VARIABLE, Seen, environment_of, every_process, owned_processes
from swerl.record.rundir import RunDir

MINIMUM_OPEN_FILES = 4096
MINIMUM_PROCESSES = 4096
MANY_GROUPS, TOO_MANY_GROUPS = 50_000, 100_000
MUCH_PERCPU, TOO_MUCH_PERCPU = 20 * GIB, 50 * GIB
NETWORK_FILE_SYSTEMS = frozenset(
    [
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "ceph",
        "lustre",
        "gpfs",
        "beegfs",
        "cpfs",
        "glusterfs",
        "9p",
        "afs",
        "orangefs",
        "pvfs2",
        "panfs",
        "wekafs",
        "fuse.cpfs",
        "fuse.sshfs",
        "fuse.glusterfs",
        "fuse.ceph",
        "fuse.ceph-fuse",
        "fuse.juicefs",
        "JuiceFS",
        "fuse.s3fs",
        "fuse.goofys",
        "fuse.rclone",
        "fuse.gcsfuse",
        "fuse.mountpoint-s3",
        "fuse.blobfuse2",
        "fuse.alluxio-fuse",
        "fuse.seaweedfs",
        "fuse.weed",
        "fuse.ossfs",
        "fuse.cosfs",
    ]
)


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
        percpu = meminfo(ctx).get("Percpu", 0)
        severe = number > TOO_MANY_GROUPS or percpu > TOO_MUCH_PERCPU
        if number > MANY_GROUPS or percpu > MUCH_PERCPU:
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


class Caches(Check):
    id = "SWERL-P714"
    family = "host"
    title = "home directory"
    asks = "vLLM and transformers can write their caches, which are below the home directory where nothing else is said"
    remedy = "set HOME to a directory of yours, or the variable named"
    live = True

    def run(self, ctx: Context) -> Iterator[Finding]:
        common = Path(ctx.env.get("XDG_CACHE_HOME") or ctx.host.home / ".cache")
        for variable, name in (("HF_HOME", "huggingface"), ("VLLM_CACHE_ROOT", "vllm")):
            place = Path(ctx.env.get(variable) or common / name)
            parent = existing_parent(place)
            if not place.is_absolute():
                yield self.found(f"this user has no home directory for {place.name}", variable)
            elif not (parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)):
                yield self.found(f"{place} cannot be written, because {parent} cannot", variable)
            else:
                yield Fact(f"{name} in {place}")


class Leftovers(Check):
    id = "SWERL-P711"
    family = "host"
    title = "leftovers of runs"
    asks = "no process of an ended run, this one or another of experiment.runs_dir, is still alive, and none left its directory in /tmp"
    remedy = "`swerl stop` ends what belongs to this run; the next `swerl train` does so too"
    severity = "warning"
    live = True
    budget_s = 5.0

    def run(self, ctx: Context) -> Iterator[Finding]:
        token_file, runs_dir = ctx.run_dir.token, ctx.cfg.experiment.runs_dir
        others = [RunDir.at(path.parent) for path in sorted(runs_dir.glob("*/run.token")) if path != token_file]
        ended = [run for run in others if not is_held(run.lock, ctx)]
        if not token_file.is_file() and not ended:
            raise NotApplicable("no run has been started here before")
        held = is_held(ctx.run_dir.lock, ctx)  # then they are those of a living run, as SWERL-P003 says
        if token_file.is_file() and not held and (found := owned_processes({TOKEN_VARIABLE: token_file.read_text().strip()}, ())):
            yield self.found(f"{len(found)} process(es) of an earlier start are alive: {_named(found)}", str(ctx.cfg.run_dir))
        yield from self._others(ended)

    def _others(self, ended: list[RunDir]) -> Iterator[Finding]:
        """What `swerl clean` would end and remove. The token is in the environment of every process of a run."""
        tokens = {token: run for run in ended if (token := _token(run))}
        alive: dict[str, list[Seen]] = {}
        for seen in every_process() if tokens else ():
            token = (environment_of(seen.pid) or {}).get(TOKEN_VARIABLE)
            if token in tokens:
                alive.setdefault(token, []).append(seen)
        for token, found in alive.items():
            run = tokens[token]
            text = f"{len(found)} process(es) of run {run.id}, which has ended, are alive: {_named(found)}"
            yield self.found(text, str(run.root), remedy="`swerl clean` ends what dead runs left")
        if left := [str(run.scratch) for token, run in tokens.items() if run.scratch.is_dir() and token not in alive]:
            text = f"{len(left)} ended run(s) left a directory: {left[0]}" + (" and others" if len(left) > 1 else "")
            yield self.found(text, left[0], severity="note", remedy="`swerl clean` removes what dead runs left")


def _token(run: RunDir) -> str:
    """Empty where it is gone, as when somebody removes the run meanwhile, or is another user's."""
    try:
        return run.token.read_text().strip()
    except OSError:
        return ""


def _named(found: list[Seen]) -> str:
    return ", ".join(f"{seen.command} (pid {seen.pid})" for seen in found[:3])


CHECKS = (Limits(), ControlGroups(), FileSystems(), KernelCache(), Caches(), Leftovers())
