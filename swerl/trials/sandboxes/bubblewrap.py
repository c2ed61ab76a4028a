"""Harbor's environment protocol over a bubblewrap sandbox. Import path: ``swerl.trials.sandboxes.bubblewrap:BubblewrapEnvironment``.

Keyword arguments (all plain data, so that Harbor can write them into config.json): ``run_tag`` labels everything that outlives a process,
``network`` none|gateway|public, ``gateway`` the ``host:port`` behind network "gateway", ``rootfs`` and ``work_dir`` paths or None,
``limits`` a mapping of `spec.Limits`, ``changes_only`` whether the agent's work will
leave as changes to the working directory (its repository then starts with one commit).

Invariants: commands run as the sandbox's root, which is nobody on the host; nothing written inside is followed on the host; /tests,
/solution and /logs/verifier are emptied, links and all, before the verifier uses them; after `stop` no process of the sandbox lives.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from harbor.environments.base import BaseEnvironment, ExecResult, SandboxBuildFailedError
from harbor.environments.capabilities import EnvironmentCapabilities, EnvironmentResourceCapabilities
from harbor.models.task.config import NetworkMode

from swerl.errors import fail
from swerl.trials.sandboxes import dockerfile, history, launch
from swerl.trials.sandboxes.filtered import Filtered
from swerl.trials.sandboxes.gradable import LOG_BOUNDS, SandboxExhausted, SandboxKilled
from swerl.trials.sandboxes.received import USUAL, Bounds, Received
from swerl.trials.sandboxes.relay import Relay
from swerl.trials.sandboxes.spec import DEFAULT_PATH, Limits, Mount, SandboxSpec
from swerl.trials.sandboxes.wire import Finished, SandboxDied, SandboxRefused

KEPT_BYTES = 8 << 20  # of each stream of one command; more is read and dropped
BASE_ENV = {"PATH": DEFAULT_PATH, "HOME": "/root", "LANG": "C.UTF-8"}
# Where the agent could lay something out for the verifier to find.
LOG_DIRS = ("/logs/agent", "/logs/verifier", "/logs/artifacts")
TRUSTED_TARGETS = ("/tests", "/solution", "/logs/verifier")
_numbers = itertools.count(1)


class BubblewrapEnvironment(Filtered, BaseEnvironment):
    def __init__(
        self,
        *args: Any,
        run_tag: str,
        network: str = "none",
        gateway: str | None = None,
        rootfs: str | None = None,
        work_dir: str = "/run/swerl",
        limits: Mapping[str, Any] | None = None,
        changes_only: bool = False,
        **kwargs: Any,
    ):
        ours = {"run_tag": run_tag, "network": network, "gateway": gateway, "rootfs": rootfs, "work_dir": work_dir, "limits": limits}
        self._made_from = (args, {**kwargs, **ours})
        self._changes_only = changes_only
        self._run_tag, self._network, self._gateway = run_tag, network, gateway
        self._rootfs, self._work_dir = Path(rootfs) if rootfs else None, Path(work_dir)
        self._limits = dict(limits or {})
        self._build = dockerfile.Build(image="")
        self._sandbox: launch.Sandbox | None = None
        self._relay: Relay | None = None
        self.host = None  # there is one
        self.leftovers: list[str] = []
        self.refused_links: list[str] = []
        self.left_out: list[str] = []
        if kwargs.get("agent_runtime_image"):
            raise fail(
                "SWERL-T024",
                f"the bubblewrap sandbox cannot mount the image {kwargs['agent_runtime_image']}",
                "unpack the agent's runtime into a directory, name it in harbor_agent.host_path_mounts, and leave runtime_image empty",
            )
        super().__init__(*args, **kwargs)

    @property
    def changes_only(self) -> bool:
        return self._changes_only

    @staticmethod
    def type() -> str:
        return "swerl-bubblewrap"

    @property
    def capabilities(self) -> EnvironmentCapabilities:
        return EnvironmentCapabilities(disable_internet=True)

    @classmethod
    def resource_capabilities(cls) -> EnvironmentResourceCapabilities:
        return EnvironmentResourceCapabilities(cpu_limit=True, memory_limit=True, fractional_cpus=True)

    def _validate_definition(self) -> None:
        path = self.environment_dir / "Dockerfile"
        if path.is_file() and not self.task_env_config.docker_image:
            self._build = dockerfile.parse(path)
        elif (self.environment_dir / "docker-compose.yaml").is_file():
            raise fail(
                "SWERL-T021",
                "the bubblewrap sandbox runs one root filesystem, not compose services",
                "use the docker sandbox for this task",
                str(self.environment_dir),
            )

        for mount in self._host_mounts:
            if mount["type"] != "bind" or any(
                PurePosixPath(place).is_relative_to(mount["target"]) or PurePosixPath(mount["target"]).is_relative_to(place)
                for place in ("/logs", "/tests", "/solution")
            ):
                raise fail(
                    "SWERL-T023",
                    f"the bubblewrap sandbox cannot mount {mount['source']} at {mount['target']}",
                    "mount a directory of the host, and not over /logs, /tests or /solution",
                )

    @property
    def workdir(self) -> str:
        return self.task_env_config.workdir or self._build.workdir

    @property
    def sandbox(self) -> launch.Sandbox:
        if self._sandbox is None:
            raise RuntimeError("the sandbox is not running")
        return self._sandbox

    def spec(self) -> SandboxSpec:
        """What this task gets under this run's settings; the narrower of the task's and the run's network wins."""
        network = "none" if self.network_policy.network_mode == NetworkMode.NO_NETWORK else self._network
        config = self.task_env_config
        limits = dict(self._limits)
        if config.memory_mb:
            limits["memory_mb"] = config.memory_mb
        if config.cpus:
            limits["cpus"] = float(config.cpus)
        if config.storage_mb:
            limits["disk_mb"] = config.storage_mb
        return SandboxSpec(
            network=network,
            rootfs=self._rootfs,
            work_dir=self._work_dir,
            limits=Limits(**limits),
            gateway_port=int(self._gateway.rpartition(":")[2]) if network == "gateway" and self._gateway else 0,
            mounts=tuple(Mount(m["source"], m["target"], bool(m.get("read_only"))) for m in self._host_mounts),
        )

    async def start(self, force_build: bool) -> None:
        self._sandbox = await launch.start(self.spec(), self._run_tag, f"{os.getpid()}-{next(_numbers)}")
        if self._sandbox.listener is not None:
            assert self._gateway is not None
            host, _, port = self._gateway.rpartition(":")
            self._relay = Relay(self._sandbox.listener, host, int(port))
            await self._relay.start()
        try:
            await self.sandbox.channel.wipe(*LOG_DIRS)
            await self.sandbox.channel.make_dirs(self.workdir)
            await self._lay_out()
            if self._changes_only:
                await self._forget_history()
                await self.sandbox.channel.baseline(self.workdir)
        except (SandboxDied, SandboxRefused, SandboxExhausted) as error:
            await self.stop(delete=True)
            raise SandboxBuildFailedError(f"the task's files do not fit into its sandbox: {error}") from error
        except BaseException:
            await self.stop(delete=True)
            raise

    async def _lay_out(self) -> None:
        """Put the task's environment/ where its Dockerfile says, or, without one, into the working directory."""
        if not self._build.image:
            if self._enable_environment_dir_upload and self.environment_dir.is_dir() and any(self.environment_dir.iterdir()):
                await self.upload_dir(self.environment_dir, self.workdir)
            return
        for step in self._build.steps:
            if isinstance(step, dockerfile.Copy):
                await self._copy_in(step)
            else:
                done = await self._run(step.command, step.workdir, dict(step.env), None)
                if done.code != 0:
                    raise SandboxBuildFailedError(
                        f"RUN {step.command[:200]} ended with {done.code}: {done.stderr[-500:].decode(errors='replace')}"
                    )

    async def _copy_in(self, step: dockerfile.Copy) -> None:
        for pattern in step.sources:
            found = sorted(self.environment_dir.glob(pattern)) if pattern not in (".", "./") else [self.environment_dir]
            if not found:
                raise SandboxBuildFailedError(f"COPY {pattern}: no such file in {self.environment_dir}")
            for source in found:
                into = step.target.endswith("/") or len(step.sources) > 1 or len(found) > 1
                if source.is_dir():
                    await self.upload_dir(source, step.target)
                else:
                    await self.upload_file(source, step.target.rstrip("/") + "/" + source.name if into else step.target)

    async def _forget_history(self) -> None:
        """One commit instead of the repository's past, which may hold the fix. The grading sandbox keeps the original."""
        looked_at = [(history.may_be_in, self.environment_dir), *([(history.may_be_in_image, self._rootfs)] if self._rootfs else [])]
        if not self._build.steps and not any([await asyncio.to_thread(look, place) for look, place in looked_at]):
            return
        done = await self._run(history.FORGET, self.workdir, {}, 300)
        if done.code != 0:
            raise SandboxBuildFailedError(f"the repository's history could not be removed: {done.stderr[-500:].decode(errors='replace')}")

    async def stop(self, delete: bool) -> None:
        """Ends everything; a sandbox of this kind is never kept, so ``delete`` makes no difference."""
        if self._relay is not None:
            await self._relay.close()
        if self._sandbox is not None:
            await self._sandbox.stop()

    async def close_network(self) -> None:
        """Nothing inside reaches the gateway any more."""
        if self._relay is not None:
            await self._relay.close()

    async def prepare_grading(self) -> None:
        """End what the agent left running, and empty the places that a verifier in this sandbox is about to read and write."""
        async with self._blamed(refusals=True):
            self.leftovers += await self.sandbox.channel.quiesce()
            if not self._changes_only:  # else the verifier works in another sandbox
                await self.sandbox.channel.wipe(*TRUSTED_TARGETS)

    async def quiesce(self) -> list[str]:
        return await self.sandbox.channel.quiesce()

    async def changes(self, target: Path, limit_bytes: int) -> Received:
        """The agent's work since `start`, written below ``target``. Only with ``changes_only``."""
        async with self._blamed(refusals=True):
            return await self.sandbox.channel.changes(self.workdir, target, Bounds(limit_bytes, limit_bytes))

    async def lay(self, received: Path, links: Sequence[tuple[str, str]]) -> None:
        """Put what came out of another sandbox, and its links, into the working directory."""
        async with self._blamed():
            await self.sandbox.channel.upload(received, self.workdir, links)

    async def remove(self, paths: Sequence[str]) -> None:
        """Remove paths below the working directory (a task's file that the agent removed)."""
        await self.sandbox.channel.remove(self.workdir, paths)

    def sibling(self, session_id: str) -> BubblewrapEnvironment:
        """A fresh sandbox of the same task, not started, with no way out and its history kept: where the work is graded."""
        args, kwargs = self._made_from
        return type(self)(*args, **{**kwargs, "session_id": session_id, "network": "none", "gateway": None, "changes_only": False})

    async def exec(
        self,
        command: str,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        timeout_sec: int | None = None,
        user: str | int | None = None,
    ) -> ExecResult:
        who = self._resolve_user(user)
        if who not in (None, "root", 0, "0"):
            raise fail("SWERL-T022", f"the bubblewrap sandbox has one user, root; the task asks for {who!r}", "use another sandbox for it")
        done = await self._run(command, str(cwd or self.workdir), self._merge_env(env) or {}, timeout_sec)
        if done.timed_out:
            raise RuntimeError(f"Command timed out after {timeout_sec} seconds")
        return ExecResult(stdout=done.stdout.decode(errors="replace"), stderr=done.stderr.decode(errors="replace"), return_code=done.code)

    async def _run(self, command: str, cwd: str, env: Mapping[str, str], timeout_s: float | None) -> Finished:
        emit = self._output_callback()
        output = None if emit is None else (lambda data, stream: emit(data.decode(errors="replace"), stream))
        try:
            async with self._blamed():
                return await self.sandbox.channel.run(command, cwd, {**BASE_ENV, **self._build.env, **env}, timeout_s, KEPT_BYTES, output)
        except SandboxRefused as error:  # process 1 could not fork: what a shell at its limit would say
            return Finished(126, b"", str(error).encode(), timed_out=False, truncated=False)

    async def upload_file(self, source_path: Path | str, target_path: str) -> None:
        async with self._blamed():
            await self.sandbox.channel.upload(Path(source_path), str(target_path))

    async def upload_dir(self, source_dir: Path | str, target_dir: str) -> None:
        if not Path(source_dir).is_dir():
            raise NotADirectoryError(str(source_dir))
        async with self._blamed():
            await self.sandbox.channel.upload(Path(source_dir), str(target_dir))

    async def download_file(self, source_path: str, target_path: Path | str) -> None:
        await self.sandbox.channel.download(str(source_path), Path(target_path), single=True, bounds=USUAL)

    async def download_dir(self, source_dir: str, target_dir: Path | str) -> None:
        got = await self.sandbox.channel.download(str(source_dir), Path(target_dir), single=False, bounds=LOG_BOUNDS)
        self.refused_links += got.refused
        self.left_out += got.left_out

    async def is_dir(self, path: str, user: str | int | None = None) -> bool:
        return await self.sandbox.channel.kind(str(path)) == "d"

    async def is_file(self, path: str, user: str | int | None = None) -> bool:
        return await self.sandbox.channel.kind(str(path)) == "f"

    @contextlib.asynccontextmanager
    async def _blamed(self, refusals: bool = False) -> AsyncIterator[None]:
        """Say what ended a sandbox, by what the host knows of it. After the agent's turn process 1 does what it is asked unless the agent
        has made that impossible: then ``refusals`` are its doing too."""
        try:
            yield
        except SandboxDied as error:
            if self.sandbox.out_of_memory():
                raise SandboxExhausted("the sandbox ended for lack of memory") from error
            if await self.sandbox.killed_from_outside():
                raise SandboxKilled("the sandbox was killed by something outside of it") from error
            raise
        except SandboxRefused as error:
            if refusals:
                raise SandboxExhausted(f"the agent's sandbox can no longer do what the trial needs: {error}") from error
            raise
