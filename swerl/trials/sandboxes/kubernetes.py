"""Pods as sandboxes: Harbor's generic cluster backend, made safe for thousands of trials of a policy nobody trusts.

Import path: ``swerl.trials.sandboxes.kubernetes:KubernetesEnvironment``. Beside the backend's own arguments: ``run_tag`` labels pod and
policy, ``network`` none|gateway|public with ``gateway`` (``ip:port``), ``startup_timeout_s``, ``pull_policy``, ``name_prefix``.

What it adds: names and labels that a cluster accepts and that differ for every attempt; requests and limits; no privileges, no service
account token; a NetworkPolicy of the run (nothing in, out only to the gateway); patience with an API server that is busy (5xx, 429);
commands whose exit codes are the commands' own, in a shell that reads no start-up file of the agent's; transfers that are whole or fail.
An error of the cluster is raised, never returned as the output of a command: it must not pass for something the agent did.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import re
import socket
import ssl
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import urllib3
from harbor.environments.ack import ACKEnvironment, ACKOptions, _deep_merge
from harbor.environments.base import ExecResult, transfer_tar_filter
from harbor.environments.capabilities import EnvironmentCapabilities, EnvironmentResourceCapabilities
from kubernetes import client as k8s
from kubernetes import config as k8s_config
from kubernetes.client.rest import ApiException
from kubernetes.stream import stream
from websocket import WebSocketException

from swerl.errors import SwerlError, fail

LABEL = "swerl.run"
_BUSY = (429, 500, 502, 503, 504)
_PATIENCE_S = 120.0
_CHUNK = 1 << 20
# A command of an agent occupies a thread for as long as it runs; the loop's own pool has six on two cores.
_threads = ThreadPoolExecutor(2048, thread_name_prefix="pods")
_policies: dict[tuple[str, str], asyncio.Lock] = {}


class ClusterAway(RuntimeError):
    """The API server did not answer in time, or the connection to a pod broke."""


class PodGone(RuntimeError):
    """The pod is no longer there: evicted, past its deadline, or deleted."""


class PodNotStarted(RuntimeError):
    """The pod did not become ready in time; the message says what it waited for."""


class ImagePullFailed(RuntimeError):
    """The node cannot get the image."""


class Options(ACKOptions):
    run_tag: str = "none"
    network: str = "public"
    gateway: str | None = None
    startup_timeout_s: int = 1200
    pull_policy: str = "IfNotPresent"
    name_prefix: str = "swerl"


def is_ours(environment: Mapping[str, Any]) -> bool:
    """Whether a run's ``environment`` (Harbor's field names) is this class."""
    return (environment.get("import_path") or "").startswith("swerl.trials.sandboxes.kubernetes:")


class KubernetesEnvironment(ACKEnvironment):
    options_model = Options
    options: Options

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        task = self.task_env_config
        cpus, memory_mb, storage_mb = task.cpus or 1, task.memory_mb or 2048, task.storage_mb or 10240
        self.cpu_request, self.memory_request, self.ephemeral_storage_request = str(cpus), f"{memory_mb}Mi", f"{storage_mb}Mi"
        digest = hashlib.sha256(self.session_id.encode()).hexdigest()[:12]  # a cut name would be another attempt's too
        slug = re.sub(r"[^a-z0-9]+", "-", f"{self.options.name_prefix}-{self.environment_name}".lower()).strip("-")
        self.pod_name = f"{slug[:48].rstrip('-')}-{digest}"
        labels = {LABEL: self.options.run_tag, "session": digest, "environment": slug[:63].rstrip("-")}
        container = {
            "imagePullPolicy": self.options.pull_policy,
            "securityContext": {"privileged": False, "allowPrivilegeEscalation": False, "seccompProfile": {"type": "RuntimeDefault"}},
            "resources": {"limits": {"cpu": str(cpus), "memory": f"{memory_mb}Mi", "ephemeral-storage": f"{storage_mb}Mi"}},
        }
        spec = {"automountServiceAccountToken": False, "enableServiceLinks": False, "containers": [container]}
        self.pod_overrides = _deep_merge({"metadata": {"labels": labels}, "spec": spec}, self.pod_overrides)

    @property
    def capabilities(self) -> EnvironmentCapabilities:
        return EnvironmentCapabilities(disable_internet=self.options.network != "public")

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
            self._configuration = await _in_thread(_configuration, self.kubeconfig, self.context)
            self._client_manager = _Held()  # type: ignore[assignment]
        if self._core_api is None:
            client = k8s.ApiClient(self._configuration)
            self._core_api = _Patient(k8s.CoreV1Api(client))  # type: ignore[assignment]
            self._batch_api = _Patient(k8s.BatchV1Api(client))  # type: ignore[assignment]
            self._exec_api = self._core_api

    async def start(self, force_build: bool) -> None:
        await self._ensure_client()
        await self._limit_network()
        await super().start(force_build)

    async def _limit_network(self) -> None:
        if self.options.network == "public":
            return
        key = (self.namespace, self.options.run_tag)
        async with _policies.setdefault(key, asyncio.Lock()):
            api = _Patient(k8s.NetworkingV1Api(k8s.ApiClient(self._configuration)))
            body = policy(self.options.run_tag, self.options.gateway if self.options.network == "gateway" else None)
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
            done = await asyncio.wait_for(_in_thread(self._command, line, None), None if timeout_sec is None else timeout_sec + 30)
        except TimeoutError:
            raise RuntimeError(f"Command timed out after {timeout_sec} seconds") from None
        code, stdout, stderr = done
        if timeout_sec and code in (124, 137) and time.monotonic() - began >= timeout_sec:
            raise RuntimeError(f"Command timed out after {timeout_sec} seconds")
        return ExecResult(stdout=stdout.decode(errors="replace"), stderr=stderr.decode(errors="replace"), return_code=code)

    def _command(self, line: list[str], stdin: Path | None) -> tuple[int, bytes, bytes]:
        """Blocking: run one command in the pod to its end. (exit code, stdout, stderr)."""
        api = k8s.CoreV1Api(k8s.ApiClient(self._configuration))  # `stream` rewires its client: one per call
        until, delay_s = time.monotonic() + _PATIENCE_S, 0.2
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
                    raise PodGone(f"pod {self.pod_name} is gone") from error
                # nothing has been run yet, so asking again repeats nothing
                if time.monotonic() > until or not any(f" {busy} " in f" {said} " for busy in (*_BUSY, "refused", "timed")):
                    raise ClusterAway(f"exec in {self.pod_name}: {said}") from error
            time.sleep(delay_s)
            delay_s = min(2 * delay_s, 5.0)
        try:
            if stdin is not None:
                with stdin.open("rb") as file:
                    while chunk := file.read(_CHUNK):
                        pod.write_stdin(chunk)
            pod.run_forever(timeout=None)
            stdout, stderr = pod.read_channel(1), pod.read_channel(2)
            code = pod.returncode
        except (WebSocketException, OSError, ssl.SSLError, TypeError, KeyError, ValueError) as error:  # the last three: no exit status came
            raise ClusterAway(f"the connection to pod {self.pod_name} broke: {error!r}") from error
        finally:
            pod.close()
        return code, bytes(stdout or b""), bytes(stderr or b"")

    async def upload_file(self, source_path: Path | str, target_path: str) -> None:
        target = PurePosixPath(target_path)
        await self._put(lambda tar: tar.add(source_path, arcname=target.name), str(target.parent))

    async def upload_dir(self, source_dir: Path | str, target_dir: str) -> None:
        if not Path(source_dir).is_dir():
            raise NotADirectoryError(str(source_dir))

        def fill(tar: tarfile.TarFile) -> None:
            for item in sorted(Path(source_dir).iterdir()):
                tar.add(item, arcname=item.name)

        await self._put(fill, str(target_dir))

    async def _put(self, fill: Callable[[tarfile.TarFile], None], target: str) -> None:
        await self._ensure_client()
        with tempfile.NamedTemporaryFile(suffix=".tar") as archive:
            with tarfile.open(archive.name, "w") as tar:
                fill(tar)
            line = ["sh", "-c", 'mkdir -p "$0" && tar -x --no-same-owner -f - -C "$0"', target]
            code, _, said = await _in_thread(self._command, line, Path(archive.name))
        if code != 0:
            raise RuntimeError(f"upload to {target} in pod {self.pod_name}: {said[-300:].decode(errors='replace')}")

    async def download_file(self, source_path: str, target_path: Path | str) -> None:
        source, target = PurePosixPath(source_path), Path(target_path)
        with tempfile.TemporaryDirectory() as folder:
            await self._get(["tar", "-c", "-f", "-", "-C", str(source.parent), "--", source.name], Path(folder), str(source))
            found = Path(folder) / source.name
            if found.is_symlink() or not found.is_file():
                raise RuntimeError(f"{source_path} in pod {self.pod_name} is not a regular file")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(found.read_bytes())

    async def download_dir(self, source_dir: str, target_dir: Path | str) -> None:
        Path(target_dir).mkdir(parents=True, exist_ok=True)
        await self._get(["tar", "-c", "-f", "-", "-C", str(source_dir), "."], Path(target_dir), str(source_dir))

    async def _get(self, line: list[str], into: Path, what: str) -> None:
        await self._ensure_client()
        code, data, said = await _in_thread(self._command, line, None)
        if code != 0:
            raise RuntimeError(f"download of {what} from pod {self.pod_name}: {said[-300:].decode(errors='replace')}")
        await _in_thread(_unpack, data, into)


def _unpack(data: bytes, into: Path) -> None:
    import io

    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        tar.extractall(into, filter=transfer_tar_filter)


def policy(run_tag: str, gateway: str | None) -> dict[str, Any]:
    """Pods of the run: nothing comes in; out goes only what is for the gateway (``host:port``), or nothing at all."""
    egress = []
    if gateway is not None:
        host, _, port = gateway.rpartition(":")
        egress = [{"to": [{"ipBlock": {"cidr": _cidr(host)}}], "ports": [{"protocol": "TCP", "port": int(port)}]}]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": f"swerl-{run_tag}", "labels": {LABEL: run_tag}},
        "spec": {
            "podSelector": {"matchLabels": {LABEL: run_tag}},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [],
            "egress": egress,
        },
    }


def _cidr(host: str) -> str:
    address = ipaddress.ip_address(socket.gethostbyname(host))
    if address.is_loopback or address.is_unspecified:
        raise fail(
            "SWERL-T053",
            f"pods cannot reach the gateway at {host}",
            "set infrastructure.bind_host to 0.0.0.0 and infrastructure.node0_ip to this host's address",
        )
    return f"{address}/{address.max_prefixlen}"


def reap(run_tag: str, namespace: str, kubeconfig: str | None, context: str | None = None) -> int:
    """Delete pods and policies that carry this run's label; how many. RuntimeError when the cluster cannot be asked."""
    try:
        client = k8s.ApiClient(_configuration(kubeconfig, context))
        core, net, label = _Patient(k8s.CoreV1Api(client)), _Patient(k8s.NetworkingV1Api(client)), f"{LABEL}={run_tag}"
        now = k8s.V1DeleteOptions(grace_period_seconds=0)
        found = [(core.delete_namespaced_pod, item) for item in core.list_namespaced_pod(namespace, label_selector=label).items]
        policies = net.list_namespaced_network_policy(namespace, label_selector=label).items
        found += [(net.delete_namespaced_network_policy, item) for item in policies]
        for delete, item in found:
            try:
                delete(item.metadata.name, namespace, body=now)
            except ApiException as error:
                if error.status != 404:
                    raise
    except (ApiException, SwerlError, ClusterAway, OSError) as error:
        raise RuntimeError(f"cluster: {str(error)[:300]}") from error
    return len(found)


class _Held:
    """What the backend expects to give back at a sandbox's end."""

    async def release_client(self) -> None: ...


def _configuration(kubeconfig: str | None, context: str | None) -> k8s.Configuration:
    """The kubeconfig's, or that of the pod this runs in. SWERL-T051 without either."""
    configuration = k8s.Configuration()
    try:
        k8s_config.load_kube_config(config_file=kubeconfig, context=context, client_configuration=configuration)
    except (k8s_config.ConfigException, OSError) as error:
        try:
            if kubeconfig:
                raise
            k8s_config.load_incluster_config(client_configuration=configuration)
        except (k8s_config.ConfigException, OSError):
            remedy = "set k8s.kubeconfig to a readable file"
            raise fail("SWERL-T051", f"no access to a cluster: {error}", remedy, str(kubeconfig or "")) from error
    return configuration


class _Patient:
    """An API whose calls are made again while the server is busy or away, for `_PATIENCE_S`. Each call of ours can be repeated: a pod that
    was made although the answer was lost is found to exist."""

    def __init__(self, api: Any):
        self._api = api

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._api, name)

        def patiently(*args: Any, **kwargs: Any) -> Any:
            until, delay_s = time.monotonic() + _PATIENCE_S, 0.2
            while True:
                try:
                    return method(*args, **{"_request_timeout": (5, 60), **kwargs})
                except ApiException as error:
                    if error.status not in _BUSY or time.monotonic() > until:
                        raise
                except (urllib3.exceptions.HTTPError, OSError) as error:
                    if time.monotonic() > until:
                        raise ClusterAway(f"the API server does not answer: {error}") from error
                time.sleep(delay_s)
                delay_s = min(2 * delay_s, 5.0)

        return patiently


async def _in_thread[T](call: Callable[..., T], *args: Any) -> T:
    return await asyncio.get_running_loop().run_in_executor(_threads, call, *args)
