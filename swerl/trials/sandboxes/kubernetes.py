"""Pods as sandboxes: Harbor's generic cluster backend, made safe for thousands of trials of a policy nobody trusts.

Import path: ``swerl.trials.sandboxes.kubernetes:KubernetesEnvironment``. Beside the backend's own arguments: ``run_tag`` labels pod and
policy, ``network`` none|gateway|public with ``gateway`` (``ip:port``), ``startup_timeout_s``, ``pull_policy``, ``name_prefix``, and
``changes_only``: the work is graded in a fresh pod; ``avoid_hosts`` are nodes it must not go to.

What it adds: names and labels that a cluster accepts and that differ for every attempt; requests and limits; no privileges, no service
account token; NetworkPolicies of the run (nothing in; out only to the gateway, or nowhere); patience with an API server that is busy;
commands whose exit codes are the commands' own, in a shell that reads no start-up file of the agent's; transfers that are whole or fail.
An error of the cluster is raised, never returned as the output of a command: it must not pass for something the agent did.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import re
import ssl
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal

from harbor.environments.ack import ACKEnvironment, ACKOptions, _deep_merge
from harbor.environments.base import ExecResult
from harbor.environments.capabilities import EnvironmentCapabilities, EnvironmentResourceCapabilities
from kubernetes import client as k8s
from kubernetes.client.rest import ApiException
from kubernetes.stream import stream
from websocket import WebSocketException

from swerl.errors import fail
from swerl.trials.sandboxes.cluster import BUSY, LABEL, NETWORK_LABEL, PATIENCE_S, ClusterAway, Patient, configuration, policy
from swerl.trials.sandboxes.foreign import Foreign, too_long
from swerl.trials.sandboxes.gradable import LOG_BOUNDS, ImagePullFailed, SandboxExhausted
from swerl.trials.sandboxes.received import USUAL, Bounds, Received, read_file
from swerl.trials.sandboxes.tree import UnsafeEntry, unpack

KEPT_BYTES = 8 << 20  # of each stream of one command; more is read and dropped
_CHUNK = 1 << 20
ENDED_ASKS = 4  # half a second apart
# A command of an agent occupies a thread for as long as it runs; the loop's own pool has six on two cores.
_threads = ThreadPoolExecutor(2048, thread_name_prefix="pods")
_policies: dict[tuple[str, str, str], asyncio.Lock] = {}


class PodGone(RuntimeError):
    """The pod is no longer there: evicted, past its deadline, or deleted."""


class PodNotStarted(RuntimeError):
    """The pod did not become ready in time; the message says what it waited for."""


class Options(ACKOptions):
    run_tag: str = "none"
    network: Literal["none", "gateway", "public"] = "public"
    changes_only: bool = False
    gateway: str | None = None
    startup_timeout_s: int = 1200
    pull_policy: str = "IfNotPresent"
    name_prefix: str = "swerl"
    avoid_hosts: tuple[str, ...] = ()


class KubernetesEnvironment(Foreign, ACKEnvironment):
    options_model = Options
    options: Options

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        task = self.task_env_config
        cpus, memory_mb, storage_mb = task.cpus or 1, task.memory_mb or 2048, task.storage_mb or 10240
        self.cpu_request, self.memory_request, self.ephemeral_storage_request = str(cpus), f"{memory_mb}Mi", f"{storage_mb}Mi"
        # A cut name would be another attempt's too, and two runs may share a namespace.
        digest = hashlib.sha256(f"{self.options.run_tag}/{self.session_id}".encode()).hexdigest()[:12]
        slug = re.sub(r"[^a-z0-9]+", "-", f"{self.options.name_prefix}-{self.environment_name}".lower()).strip("-")
        self.pod_name = f"{slug[:48].rstrip('-')}-{digest}"
        labels = {LABEL: self.options.run_tag, NETWORK_LABEL: self.network, "session": digest, "environment": slug[:63].rstrip("-")}
        container = {
            "imagePullPolicy": self.options.pull_policy,
            "securityContext": {"privileged": False, "allowPrivilegeEscalation": False, "seccompProfile": {"type": "RuntimeDefault"}},
            "resources": {"limits": {"cpu": str(cpus), "memory": f"{memory_mb}Mi", "ephemeral-storage": f"{storage_mb}Mi"}},
        }
        spec: dict[str, Any] = {"automountServiceAccountToken": False, "enableServiceLinks": False, "containers": [container]}
        if self.options.avoid_hosts:
            where = {"key": "kubernetes.io/hostname", "operator": "NotIn", "values": list(self.options.avoid_hosts)}
            required = {"nodeSelectorTerms": [{"matchExpressions": [where]}]}
            spec["affinity"] = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
        self.pod_overrides = _deep_merge({"metadata": {"labels": labels}, "spec": spec}, self.pod_overrides)

    @property
    def capabilities(self) -> EnvironmentCapabilities:
        return EnvironmentCapabilities(disable_internet=True)

    @classmethod
    def resource_capabilities(cls) -> EnvironmentResourceCapabilities:
        return EnvironmentResourceCapabilities(
            cpu_limit=True, memory_limit=True, cpu_request=True, memory_request=True, fractional_cpus=True
        )

    def _validate_definition(self) -> None:
        if not self.task_env_config.docker_image and not (self.environment_dir / "Dockerfile").is_file():
            raise fail("SWERL-T050", "the task has no image and no Dockerfile", "set docker_image in its task.toml")

    async def _ensure_client(self) -> None:
        """Clients of our own in the place of the backend's: that asks the server for everything it offers before it makes one pod."""
        if self._client_manager is None:
            self._configuration = await _in_thread(configuration, self.kubeconfig, self.context)
            self._client_manager = _Held()  # type: ignore[assignment]
        if self._core_api is None:
            client = k8s.ApiClient(self._configuration)
            self._core_api = Patient(k8s.CoreV1Api(client))  # type: ignore[assignment]
            self._batch_api = Patient(k8s.BatchV1Api(client))  # type: ignore[assignment]
            self._exec_api = self._core_api

    async def start(self, force_build: bool) -> None:
        await self._ensure_client()
        await self._limit_network()
        await super().start(force_build)
        if not self.task_env_config.workdir:
            where = io.BytesIO()
            await self.raw(["pwd"], where, 4096)
            self._workdir = where.getvalue().decode(errors="replace").strip()
        await self.note_start()

    async def _limit_network(self) -> None:
        if self.network == "public":
            return
        key = (self.namespace, self.options.run_tag, self.network)
        async with _policies.setdefault(key, asyncio.Lock()):
            api = Patient(k8s.NetworkingV1Api(k8s.ApiClient(self._configuration)))
            body = policy(self.options.run_tag, self.options.gateway if self.network == "gateway" else None)
            try:
                await _in_thread(api.create_namespaced_network_policy, self.namespace, body)
            except ApiException as error:
                if error.status == 409:  # this run's, from another trial
                    return
                if error.status in (401, 403):
                    raise fail(
                        "SWERL-T052",
                        f"pods cannot be kept off the network: {error.reason}",
                        "let the account create networkpolicies, or set harbor_runtime.sandbox.network to public",
                        f"namespace {self.namespace}",
                    ) from error
                raise ClusterAway(f"NetworkPolicy: {error.status} {error.reason}") from error

    async def _wait_for_pod_ready(self, timeout_sec: int = 300) -> None:
        until, said = time.monotonic() + self.options.startup_timeout_s, "nothing is known of it"
        while time.monotonic() < until:
            try:
                pod = await _in_thread(self._core_api.read_namespaced_pod, self.pod_name, self.namespace)
            except ApiException as error:
                if error.status != 404:  # a pod just made may be unknown for a moment
                    raise ClusterAway(f"pod {self.pod_name}: {error.status} {error.reason}") from error
            else:
                self.host = pod.spec.node_name or self.host
                states = pod.status.container_statuses or []
                if pod.status.phase == "Running" and states and all(state.ready for state in states):
                    return
                if pod.status.phase in ("Failed", "Succeeded", "Unknown"):
                    raise PodNotStarted(f"pod {self.pod_name} is {pod.status.phase}: {self._get_pod_failure_summary(pod)}")
                waits = [state.state.waiting for state in states if state.state and state.state.waiting]
                for wait in waits:
                    if wait.reason in ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"):
                        raise ImagePullFailed(f"{self._get_image_url()}: {wait.message or wait.reason}")
                unmet = [c.message for c in pod.status.conditions or [] if c.status == "False" and c.message]
                said = "; ".join([*(w.reason or "" for w in waits), *unmet]) or f"it is {pod.status.phase}"
            await asyncio.sleep(0.5)
        raise PodNotStarted(f"pod {self.pod_name} was not ready within {self.options.startup_timeout_s} s: {said}")

    async def _wait_for_container_exec_ready(self, max_attempts: int = 60) -> None:
        """Nothing to wait for: `start` returns when a command has run."""

    async def exec(
        self,
        command: str,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        timeout_sec: int | None = None,
        user: str | int | None = None,
    ) -> ExecResult:
        await self._ensure_client()
        who, where = self._resolve_user(user), cwd or self.task_env_config.workdir
        if too_long(command):
            return ExecResult(stdout="", stderr="bash: Argument list too long", return_code=126)
        line = ["bash", "-c", command]
        if timeout_sec:
            line = ["timeout", "-s", "KILL", str(timeout_sec), *line]
        line = ["env", *(f"{key}={value}" for key, value in (self._merge_env(env) or {}).items()), *line]
        if who not in (None, "root", 0, "0"):
            line = ["setpriv", f"--reuid={who}", "--init-groups", "--", *line]
        if where:
            line = ["sh", "-c", 'cd "$0" && exec "$@"', str(where), *line]
        began = time.monotonic()
        try:
            done = await asyncio.wait_for(_in_thread(self._command, line), None if timeout_sec is None else timeout_sec + 30)
        except TimeoutError:
            raise RuntimeError(f"Command timed out after {timeout_sec} seconds") from None
        code, stdout, stderr = done
        if timeout_sec and code in (124, 137) and time.monotonic() - began >= timeout_sec:
            raise RuntimeError(f"Command timed out after {timeout_sec} seconds")
        return ExecResult(stdout=stdout.decode(errors="replace"), stderr=stderr.decode(errors="replace"), return_code=code)

    async def raw(self, line: Sequence[str], into: BinaryIO, limit_bytes: int) -> tuple[int, bytes]:
        await self._ensure_client()
        code, _, said = await _in_thread(self._command, list(line), None, into, limit_bytes)
        return code, said

    def _command(
        self, line: list[str], stdin: Path | None = None, into: BinaryIO | None = None, limit_bytes: int = 0
    ) -> tuple[int, bytes, bytes]:
        """Blocking: run one command in the pod to its end. (exit code, stdout, stderr). With ``into`` stdout goes there, and more than
        ``limit_bytes`` of it raises UnsafeEntry."""
        api = k8s.CoreV1Api(k8s.ApiClient(self._configuration))  # `stream` rewires its client: one per call
        until, delay_s = time.monotonic() + PATIENCE_S, 0.2
        while True:
            try:
                pod = stream(
                    api.connect_get_namespaced_pod_exec,
                    self.pod_name,
                    self.namespace,
                    container="main",
                    command=line,
                    stdin=stdin is not None,
                    stdout=True,
                    stderr=True,
                    tty=False,
                    binary=True,
                    _preload_content=False,
                )
                break
            except (ApiException, AttributeError) as error:  # the client trips over a refused handshake: it has no body
                refused = error if isinstance(error, ApiException) else error.__context__
                said = f"{getattr(refused, 'status', '')} {getattr(refused, 'reason', error)}"[:200]
                if " 404 " in f" {said} ":
                    raise self._ended() from error
                # nothing has been run yet, so asking again repeats nothing
                if time.monotonic() > until or not any(f" {busy} " in f" {said} " for busy in (*BUSY, "refused", "timed")):
                    raise ClusterAway(f"exec in {self.pod_name}: {said}") from error
            time.sleep(delay_s)
            delay_s = min(2 * delay_s, 5.0)
        try:
            if stdin is not None:
                with stdin.open("rb") as file:
                    while chunk := file.read(_CHUNK):
                        pod.write_stdin(chunk)
            kept, seen = {1: bytearray(), 2: bytearray()}, 0
            while (alive := pod.is_open()) or pod.peek_channel(1) or pod.peek_channel(2):
                if alive:
                    pod.update(timeout=60)
                for channel, held in kept.items():
                    data = pod.read_channel(channel) or b""
                    if channel == 1 and into is not None:
                        if (seen := seen + len(data)) > limit_bytes:
                            raise UnsafeEntry(f"more than {limit_bytes >> 20} MiB")
                        into.write(data)
                    else:
                        held += data[: max(0, KEPT_BYTES - len(held))]
            code = pod.returncode
        except UnsafeEntry:
            raise
        except (WebSocketException, OSError, ssl.SSLError, TypeError, KeyError, ValueError) as error:  # the last three: no exit status came
            raise self._broken(error) from error
        finally:
            pod.close()
        return code, bytes(kept[1]), bytes(kept[2])

    async def close_network(self) -> None:
        """Nothing: a policy holds for all pods of the run. The session ends with the agent, and without one the gateway answers nobody."""

    def _broken(self, error: Exception) -> Exception:
        """Why a command's connection broke: with the container, which is known a moment later, or with the cluster."""
        for _ in range(ENDED_ASKS):
            ended = self._ended()
            if isinstance(ended, SandboxExhausted):
                return ended
            time.sleep(0.5)
        return ClusterAway(f"the connection to pod {self.pod_name} broke: {error!r}")

    def _ended(self) -> Exception:
        """Why the pod runs no command any more. A container that ended by itself was brought down from inside."""
        try:
            pod = self._core_api.read_namespaced_pod(self.pod_name, self.namespace)
        except ApiException:
            return PodGone(f"pod {self.pod_name} is gone")
        if pod.status.reason == "Evicted" and "exceed" in (pod.status.message or ""):  # the kubelet's words: more than the pod's own limit
            return SandboxExhausted(f"the pod was evicted: {pod.status.message[:300]}")
        for state in pod.status.container_statuses or []:
            if state.state and state.state.terminated and pod.status.reason is None:  # an eviction or a deadline has a reason
                return SandboxExhausted(f"the pod's container ended: {state.state.terminated.reason} ({state.state.terminated.exit_code})")
        return PodGone(f"pod {self.pod_name} is {pod.status.phase}: {pod.status.reason or 'no container'}")

    async def upload_file(self, source_path: Path | str, target_path: str) -> None:
        target = PurePosixPath(target_path)
        await self.put(lambda tar, _: tar.add(source_path, arcname=target.name), str(target.parent))

    async def upload_dir(self, source_dir: Path | str, target_dir: str) -> None:
        if not Path(source_dir).is_dir():
            raise NotADirectoryError(str(source_dir))

        def fill(tar: tarfile.TarFile, _: str) -> None:
            for item in sorted(Path(source_dir).iterdir()):
                tar.add(item, arcname=item.name)

        await self.put(fill, str(target_dir))

    async def put(self, fill: Callable[[tarfile.TarFile, str], None], target: str) -> None:
        await self._ensure_client()
        with tempfile.NamedTemporaryFile(suffix=".tar") as archive:
            with tarfile.open(archive.name, "w") as tar:
                fill(tar, "")
            line = ["sh", "-c", 'mkdir -p "$0" && tar -x --no-same-owner -f - -C "$0"', target]
            code, _, said = await _in_thread(self._command, line, Path(archive.name), None, 0)
        if code != 0:
            raise RuntimeError(f"upload to {target} in pod {self.pod_name}: {said[-300:].decode(errors='replace')}")

    async def download_file(self, source_path: str, target_path: Path | str) -> None:
        source, target = PurePosixPath(source_path), Path(target_path)
        with tempfile.TemporaryDirectory() as folder:
            line = ["tar", "-c", "-f", "-", "-C", str(source.parent), "--", source.name]
            await self._get(line, Path(folder), str(source), USUAL, cut=False)
            data = await asyncio.to_thread(read_file, Path(folder), source.name, USUAL.total_bytes)
            if data is None:
                raise RuntimeError(f"{source_path} in pod {self.pod_name} is not a regular file")
            target.parent.mkdir(parents=True, exist_ok=True)
            await asyncio.to_thread(target.write_bytes, data)

    async def download_dir(self, source_dir: str, target_dir: Path | str) -> None:
        line = ["tar", "-c", "-f", "-", "-C", str(source_dir), "."]
        received = await self._get(line, Path(target_dir), str(source_dir), LOG_BOUNDS, cut=True)
        self.refused_links += received.refused
        self.left_out += received.left_out

    async def _get(self, line: list[str], into: Path, what: str, bounds: Bounds, cut: bool) -> Received:
        with tempfile.TemporaryFile() as archive:
            try:
                code, said = await self._ours(line, archive, bounds.total_bytes)
                if code not in ((0, 1) if cut else (0,)):  # 1: a file changed while it was read
                    raise RuntimeError(f"download of {what} from pod {self.pod_name}: {said[-300:].decode(errors='replace')}")
            except UnsafeEntry:
                if not cut:
                    raise
                self.left_out.append(f"what is beyond {bounds.total_bytes >> 20} MiB below {what}")
            archive.seek(0)
            return await asyncio.to_thread(unpack, archive, into, bounds, cut)


class _Held:
    """What the backend expects to give back at a sandbox's end."""

    async def release_client(self) -> None: ...


async def _in_thread[T](call: Callable[..., T], *args: Any) -> T:
    return await asyncio.get_running_loop().run_in_executor(_threads, call, *args)
