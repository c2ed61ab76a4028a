"""Containers as sandboxes: Harbor's Docker environment, made safe for a policy nobody trusts and quick to start, use and end.

Import path: ``swerl.trials.sandboxes.docker:DockerEnvironment``. Beside the backend's own arguments: ``run_tag`` labels all of a trial's
project, ``network`` none|gateway|public with ``gateway`` (``host:port``), ``max_processes``, ``changes_only`` whether the work is graded in
a fresh container.

Starting and ending is Harbor's (one compose project a trial). What differs: a container whose network is not public has none; the way to
the gateway is a socket in its own network namespace, which the runner serves. Commands go through ``docker exec``, with stdout and stderr
apart, bounded, and no secret on a command line. Files go and come as archives that no link of the agent's can redirect. An error of the
engine is raised, never returned as the output of a command.
"""

from __future__ import annotations

import asyncio
import io
import tarfile
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal

from harbor.environments.base import ExecResult
from harbor.environments.capabilities import EnvironmentCapabilities
from harbor.environments.docker import docker as harbor
from harbor.models.task.config import NetworkMode, NetworkPolicy

from swerl.trials.sandboxes import engine
from swerl.trials.sandboxes.foreign import Foreign, as_root, too_long
from swerl.trials.sandboxes.gradable import LOG_BOUNDS, ImagePullFailed, SandboxExhausted
from swerl.trials.sandboxes.netns import listen_inside, refused
from swerl.trials.sandboxes.received import USUAL, Bounds, Received, read_file
from swerl.trials.sandboxes.relay import Relay
from swerl.trials.sandboxes.tree import UnsafeEntry, unpack

TRANSFER_S = 300.0
# What the client says of a failure of the engine's, and what a failed pull reads like.
_ENGINES_WORDS = (b"Error response from daemon", b"No such container", b"Cannot connect to the Docker daemon", b"error during connect")
_PULLING = ("pull access denied", "manifest unknown", "manifest for", "No such image", "failed to resolve", "registry", "lookup ")


class ContainerNotStarted(RuntimeError):
    """The engine could not bring the task's containers up."""


class Options(harbor.DockerOptions):
    run_tag: str = "none"
    network: Literal["none", "gateway", "public"] = "none"
    gateway: str | None = None
    max_processes: int = 512
    changes_only: bool = False


class DockerEnvironment(Foreign, harbor.DockerEnvironment):
    options_model = Options
    options: Options

    def __init__(self, *args: Any, **kwargs: Any):
        self._container = ""
        self._relay: Relay | None = None
        super().__init__(*args, **kwargs)
        # The project's name: of two runs at one engine, each may have a trial of that name.
        self.session_id = f"{self.options.run_tag}-{self.session_id.removeprefix(f'{self.options.run_tag}-')}"

    @staticmethod
    def _requires_egress_control(*, startup_network_policy: NetworkPolicy, phase_network_policies: Sequence[NetworkPolicy]) -> bool:
        """Harbor's sidecar is for lists of allowed hosts; a container without a network needs none."""
        return any(policy.network_mode == NetworkMode.ALLOWLIST for policy in (startup_network_policy, *phase_network_policies))

    @property
    def capabilities(self) -> EnvironmentCapabilities:
        theirs = super().capabilities
        return theirs.model_copy(update={"disable_internet": True, "mounted": False})  # logs are fetched: the engine may be elsewhere

    @property
    def _docker_compose_paths(self) -> list[Path]:
        own = self.trial_paths.trial_dir / f"compose.{self.session_id.rpartition('__')[2]}.json"
        return [*super()._docker_compose_paths, *([own] if own.exists() else [])]

    def _compose_env_vars(self, include_os_env: bool = True) -> dict[str, str]:
        return {**super()._compose_env_vars(include_os_env), engine.TAG_VARIABLE: self.options.run_tag}

    async def start(self, force_build: bool) -> None:
        address = await asyncio.to_thread(engine.require)
        if self.network == "gateway" and not address.startswith("unix://"):
            raise refused(f"the engine is at {address}")
        own = self.trial_paths.trial_dir / f"compose.{self.session_id.rpartition('__')[2]}.json"
        engine.overlay(own, self.options.run_tag, self.network, self.options.max_processes, self._user_compose_paths())
        try:
            await self._bring_up(force_build)
            if self.network == "gateway" and self.options.gateway is not None:
                await self._let_in(self.options.gateway)
            await self.note_start()
        except BaseException:
            await asyncio.shield(self.stop(delete=True))
            raise

    async def _bring_up(self, force_build: bool) -> None:
        try:
            await super().start(force_build)
        except RuntimeError as error:
            said = str(error).rpartition("Stdout: ")[2] or str(error)
            pulling = self._use_prebuilt and any(words in said for words in _PULLING)
            kind = ImagePullFailed if pulling else ContainerNotStarted
            raise kind(f"{self.task_env_config.docker_image or self.environment_name}: {said.strip()[-600:]}") from error

    async def _upload_environment_dir_after_start(self) -> None:
        await self._find_container()  # the first thing of Harbor's start that needs it
        await super()._upload_environment_dir_after_start()

    def _validate_daemon_mode(self) -> None:
        """Nothing: it would stop every other trial for the time of a docker command, and `engine.require` has asked the engine."""

    async def _find_container(self) -> None:
        self._container = await self._container_of("main")
        self._pid, _, self._workdir = (
            (await self._engine("inspect", "--format", "{{.State.Pid}} {{.Config.WorkingDir}}", self._container)).strip().partition(" ")
        )

    async def _container_of(self, service: str) -> str:
        if service == "main" and self._container:
            return self._container
        project = harbor._sanitize_docker_compose_project_name(self.session_id)
        labels = (f"project={project}", f"service={service}")
        filters = [part for label in labels for part in ("--filter", f"label=com.docker.compose.{label}")]
        found = (await self._engine("ps", "--all", "--quiet", "--no-trunc", *filters)).split()
        if len(found) != 1:
            raise ContainerNotStarted(f"{project} has {len(found)} containers of the service {service}")
        return found[0]

    async def _let_in(self, gateway: str) -> None:
        host, _, port = gateway.rpartition(":")
        listener = await asyncio.to_thread(listen_inside, int(self._pid), self._container, int(port))
        self._relay = Relay(listener, host, int(port))
        await self._relay.start()

    async def close_network(self) -> None:
        """Nothing inside reaches the gateway any more."""
        if self._relay is not None:
            await self._relay.close()

    async def stop(self, delete: bool) -> None:
        await self.close_network()
        await super().stop(delete)

    # Commands

    async def _engine(self, *arguments: str) -> str:
        """A command of the engine's own. EngineAway when it fails."""
        done = await engine.run(arguments)
        if done.code != 0:
            raise engine.EngineAway(f"docker {arguments[0]}: {done.stderr.decode(errors='replace').strip()[:500]}")
        return done.stdout.decode(errors="replace")

    async def _inside(self, options: Sequence[str], line: Sequence[str], **how: Any) -> engine.Done:
        done = await engine.run(["exec", *options, self._container, *line], **how)
        if done.code != 0 and any(words in done.stderr[:4096] for words in _ENGINES_WORDS):
            await self._blame()  # the agent can print such words; the engine knows whether the container lives
        return done

    async def _blame(self) -> None:
        """Returns when the container runs. A container that ended although nobody ended it was brought down from inside."""
        done = await engine.run(["inspect", "--format", "{{.State.Running}} {{.State.OOMKilled}} {{.State.ExitCode}}", self._container])
        if done.code != 0:
            raise engine.EngineAway(f"container {self._container[:12]}: {done.stderr.decode(errors='replace').strip()[:300]}")
        running, out_of_memory, code = done.stdout.decode().split()
        if running != "true":
            raise SandboxExhausted("the container ended for lack of memory" if out_of_memory == "true" else f"the container ended ({code})")

    async def raw(self, line: Sequence[str], into: BinaryIO, limit_bytes: int) -> tuple[int, bytes]:
        try:
            done = await self._inside(["--user", "root"], line, into=into, limit_bytes=limit_bytes)
        except engine.TooMuch as error:
            raise UnsafeEntry(str(error)) from error
        return done.code, done.stderr

    async def exec(
        self,
        command: str,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        timeout_sec: int | None = None,
        user: str | int | None = None,
    ) -> ExecResult:
        if too_long(command):
            return ExecResult(stdout="", stderr="bash: Argument list too long", return_code=126)
        line = ["bash", "-c", command]
        if timeout_sec:
            line = ["timeout", "-s", "KILL", str(timeout_sec), *line]
        given, client = engine.variables(self._merge_env(env) or {})
        who, where = self._resolve_user(user), cwd or self.task_env_config.workdir
        options = [*given, *(["--user", str(who)] if who is not None else []), *(["--workdir", str(where)] if where else [])]
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            done = await asyncio.wait_for(
                self._inside(options, line, env=client, on_output=self._output_callback()), timeout_sec + 30 if timeout_sec else None
            )
        except TimeoutError:
            raise RuntimeError(f"Command timed out after {timeout_sec} seconds") from None
        if timeout_sec and done.code in (124, 137) and loop.time() - began >= timeout_sec:
            raise RuntimeError(f"Command timed out after {timeout_sec} seconds")
        return ExecResult(stdout=done.stdout.decode(errors="replace"), stderr=done.stderr.decode(errors="replace"), return_code=done.code)

    # Files

    async def upload_file(self, source_path: Path | str, target_path: str) -> None:
        name = PurePosixPath(target_path).name if not str(target_path).endswith("/") else Path(source_path).name
        into = str(PurePosixPath(target_path).parent if not str(target_path).endswith("/") else target_path)
        await self.put(lambda tar, below: _add(tar, Path(source_path), f"{below}{name}"), into)

    async def upload_dir(self, source_dir: Path | str, target_dir: str) -> None:
        source = Path(source_dir)
        if not source.is_dir():
            raise NotADirectoryError(str(source_dir))

        def fill(tar: tarfile.TarFile, below: str) -> None:
            for path in sorted(source.rglob("*")):
                _add(tar, path, f"{below}{path.relative_to(source).as_posix()}")

        if not any(source.iterdir()):
            await self.raw(["mkdir", "-p", f"/{str(target_dir).strip('/')}"], io.BytesIO(), 0)
            return
        await self.put(fill, str(target_dir))

    async def put(self, fill: Callable[[tarfile.TarFile, str], None], target: str) -> None:
        """Unpacked by the engine, as root's, from the container's root: directories on the way are made, and links lead nowhere else."""
        with tempfile.TemporaryFile() as archive:
            with tarfile.open(fileobj=archive, mode="w") as tar:
                fill(tar, f"{target.strip('/')}/".lstrip("/"))
            archive.seek(0)
            done = await engine.run(["cp", "-", f"{self._container}:/"], stdin=archive)
        if done.code != 0:
            await self._blame()
            raise RuntimeError(f"upload into container {self._container[:12]}: {done.stderr.decode(errors='replace').strip()[-300:]}")

    async def download_file(self, source_path: str, target_path: Path | str) -> None:
        await self._get_file(self._container, str(source_path), Path(target_path))

    async def download_dir(self, source_dir: str, target_dir: Path | str) -> None:
        await self._get_dir(self._container, str(source_dir), Path(target_dir))

    async def service_download_file(self, source_path: str, target_path: Path | str, *, service: str | None = None) -> None:
        await self._get_file(await self._container_of(service or "main"), str(source_path), Path(target_path))

    async def service_download_dir(self, source_dir: str, target_dir: Path | str, *, service: str | None = None) -> None:
        await self._get_dir(await self._container_of(service or "main"), str(source_dir), Path(target_dir))

    async def _get_file(self, container: str, source: str, target: Path) -> None:
        with tempfile.TemporaryDirectory() as folder:
            await self._get(container, source, Path(folder), USUAL, cut=False)
            data = await asyncio.to_thread(read_file, Path(folder), PurePosixPath(source).name, USUAL.total_bytes)
            if data is None:
                raise RuntimeError(f"{source} in container {container[:12]} is not a regular file")
            target.parent.mkdir(parents=True, exist_ok=True)
            await asyncio.to_thread(target.write_bytes, data)

    async def _get_dir(self, container: str, source: str, target: Path) -> None:
        received = await self._get(container, f"{source.rstrip('/')}/.", target, LOG_BOUNDS, cut=True)
        self.refused_links += received.refused
        self.left_out += received.left_out

    async def _get(self, container: str, source: str, target: Path, bounds: Bounds, cut: bool) -> Received:
        """What the engine packs itself: no program of the agent's takes part."""
        with tempfile.TemporaryFile() as archive:
            try:
                getting = engine.run(["cp", f"{container}:{source}", "-"], into=archive, limit_bytes=bounds.total_bytes)
                done = await asyncio.wait_for(getting, TRANSFER_S)
            except engine.TooMuch as error:
                if not cut:
                    raise UnsafeEntry(f"{source} holds {error}") from error
                self.left_out.append(f"what is beyond {bounds.total_bytes >> 20} MiB below {source}")
            else:
                if done.code != 0:
                    await self._blame()
                    raise RuntimeError(f"download of {source}: {done.stderr.decode(errors='replace').strip()[-300:]}")
            archive.seek(0)
            return await asyncio.to_thread(unpack, archive, target, bounds, cut)


def _add(tar: tarfile.TarFile, path: Path, name: str) -> None:
    tar.add(path, arcname=name, recursive=False, filter=as_root)


def settings(environment: Mapping[str, Any], **ours: Any) -> dict[str, Any]:
    """A run's ``environment`` (Harbor's field names) with our class in the place of Harbor's, and our arguments beside the user's."""
    kept = {name: value for name, value in environment.items() if name not in ("type", "import_path", "kwargs")}
    return {**kept, "import_path": f"{__name__}:DockerEnvironment", "kwargs": {**environment.get("kwargs", {}), **ours}}
