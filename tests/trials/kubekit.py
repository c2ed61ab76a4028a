"""A Kubernetes API server whose pods are bubblewrap sandboxes: what trials need of a cluster, over real HTTP and WebSocket.

Pods: create, get, list (labelSelector), watch, delete, log; exec with the channel protocol v4 (stdin, stdout, stderr, exit status).
NetworkPolicies are kept and shown; a sandbox has no network whatever they say. ``faults`` are statuses that the next calls get instead of
an answer; ``slow_s`` is the time a pod is Pending; images that begin with "missing/" cannot be pulled. What a real kubelet would refuse is
refused here: names and label values that no cluster takes, privileged containers, unknown quantities.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import secrets
import tempfile
import time
from pathlib import Path
from typing import Any

import orjson
from aiohttp import WSMsgType, web

from swerl.trials.sandboxes import launch
from swerl.trials.sandboxes.spec import Limits, SandboxSpec

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_QUANTITY = re.compile(r"\d+(\.\d+)?(m|Mi|Gi|Ki)?")
_STREAMS = {"O": b"\x01", "F": b"\x02"}


class Cluster:
    def __init__(self, slow_s: float = 0.0):
        self.slow_s = slow_s
        self.faults: list[int] = []
        self.exec_faults: list[int] = []
        self.nodes = ["node-a"]  # pods go round, except where their affinity keeps them off
        self.bad_nodes: set[str] = set()  # no image can be pulled there
        self.cut_exec = 0  # so many commands lose their connection in the middle
        self.pods: dict[str, dict[str, Any]] = {}
        self.seen: list[dict[str, Any]] = []  # every pod that was ever made
        self.policies: dict[str, dict[str, Any]] = {}
        self.calls: list[tuple[str, str]] = []
        self.log: dict[str, list[str]] = {}
        self.token = secrets.token_hex(16)
        self.tag = f"kube-{secrets.token_hex(4)}"
        self._sandboxes: dict[str, launch.Sandbox] = {}
        self._starting: dict[str, asyncio.Task[None]] = {}
        self._watchers: list[asyncio.Queue[dict[str, Any]]] = []
        self._versions = itertools.count(1)
        self._stdin = tempfile.TemporaryDirectory(prefix="kube-")

    async def start(self) -> Cluster:
        app = web.Application(client_max_size=1 << 26, middlewares=[self._border])
        core, net = "/api/v1/namespaces/{ns}/pods", "/apis/networking.k8s.io/v1/namespaces/{ns}/networkpolicies"
        app.add_routes(
            [
                web.post(core, self._create),
                web.get(core, self._list),
                web.get(core + "/{name}", self._read),
                web.delete(core + "/{name}", self._delete),
                web.get(core + "/{name}/exec", self._exec),
                web.get(core + "/{name}/log", self._log),
                web.post(net, self._add_policy),
                web.get(net, self._list_policies),
                web.delete(net + "/{name}", self._delete_policy),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"
        return self

    async def stop(self) -> None:
        for name in list(self.pods):
            await self._end(name)
        await self._runner.cleanup()
        self._stdin.cleanup()

    def kubeconfig(self, path: Path) -> Path:
        named = {
            "clusters": [{"name": "kit", "cluster": {"server": self.url}}],
            "users": [{"name": "me", "user": {"token": self.token}}],
            "contexts": [{"name": "kit", "context": {"cluster": "kit", "user": "me"}}],
        }
        path.write_bytes(orjson.dumps({"apiVersion": "v1", "kind": "Config", "current-context": "kit", **named}))
        return path

    # Pods

    @web.middleware
    async def _border(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.calls.append((request.method, request.path))
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return _status(401, "Unauthorized")
        faults = self.exec_faults if request.path.endswith("/exec") else self.faults
        if faults:
            return _status(faults.pop(0), "the kit was told to fail")
        return await handler(request)

    async def _create(self, request: web.Request) -> web.Response:
        pod = orjson.loads(await request.read())
        name, main = pod["metadata"]["name"], pod["spec"]["containers"][0]
        if name in self.pods:
            return _status(409, f'pods "{name}" already exists')
        bad = [] if _NAME.fullmatch(name) else [f"name {name!r}"]
        bad += [f"label {key}={value!r}" for key, value in pod["metadata"]["labels"].items() if not _LABEL.fullmatch(value)]
        for kind in ("requests", "limits"):
            bad += [f"{kind}.{k}={v!r}" for k, v in main["resources"].get(kind, {}).items() if not _QUANTITY.fullmatch(v)]
        bad += ["privileged"] if main.get("securityContext", {}).get("privileged") else []
        if bad:
            return _status(422, f"invalid: {', '.join(bad)}")
        pod["spec"]["nodeName"] = next(node for node in self._round() if node not in _kept_off(pod))
        pod["metadata"] |= {"uid": secrets.token_hex(8), "resourceVersion": str(next(self._versions)), "creationTimestamp": _now()}
        pod["status"] = {"phase": "Pending", "containerStatuses": [_state(main, "ContainerCreating")]}
        self.pods[name] = pod
        self.seen.append(pod)
        self.log[name] = []
        self._starting[name] = asyncio.create_task(self._run(name, main))
        self._tell("ADDED", pod)
        return _json(pod, 201)

    def _round(self) -> list[str]:
        first = len(self.seen) % len(self.nodes)
        return self.nodes[first:] + self.nodes[:first]

    async def _run(self, name: str, main: dict[str, Any]) -> None:
        await asyncio.sleep(self.slow_s)
        pod = self.pods[name]
        if main["image"].startswith("missing/"):
            pod["status"]["containerStatuses"] = [_state(main, "ErrImagePull", f"manifest of {main['image']} unknown")]
        elif pod["spec"]["nodeName"] in self.bad_nodes:
            pod["status"]["containerStatuses"] = [_state(main, "ErrImagePull", "no space left on device")]
        else:
            limits = Limits(disk_mb=64, memory_mb=512)
            self._sandboxes[name] = await launch.start(SandboxSpec(limits=limits), self.tag, name[-20:])
            await self._sandboxes[name].channel.make_dirs("/app")  # what an image has
            pod["status"] = {"phase": "Running", "containerStatuses": [_state(main)]}
        pod["metadata"]["resourceVersion"] = str(next(self._versions))
        self._tell("MODIFIED", pod)

    async def _list(self, request: web.Request) -> web.StreamResponse:
        wanted = [pair.split("=") for pair in request.query.get("labelSelector", "").split(",") if pair]
        items = [pod for pod in self.pods.values() if all(pod["metadata"]["labels"].get(key) == value for key, value in wanted)]
        if request.query.get("watch") in ("true", "1", "True"):
            return await self._watch(request, items)
        return _json({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})

    async def _watch(self, request: web.Request, items: list[dict[str, Any]]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        for pod in items:
            queue.put_nowait({"type": "ADDED", "object": pod})
        self._watchers.append(queue)
        until = time.monotonic() + float(request.query.get("timeoutSeconds", "3600"))
        try:
            while True:
                event = await asyncio.wait_for(queue.get(), until - time.monotonic())
                await response.write(orjson.dumps(event) + b"\n")
        except (TimeoutError, ConnectionError):
            return response
        finally:
            self._watchers.remove(queue)

    def _tell(self, kind: str, pod: dict[str, Any]) -> None:
        for queue in self._watchers:
            queue.put_nowait({"type": kind, "object": orjson.loads(orjson.dumps(pod))})

    async def _read(self, request: web.Request) -> web.Response:
        pod = self.pods.get(request.match_info["name"])
        return _json(pod) if pod is not None else _status(404, "no such pod")

    async def _delete(self, request: web.Request) -> web.Response:
        if (pod := await self._end(request.match_info["name"])) is None:
            return _status(404, "no such pod")
        return _json(pod)

    async def evict(self, name: str) -> None:
        await self._end(name)

    async def _end(self, name: str) -> dict[str, Any] | None:
        pod = self.pods.pop(name, None)
        if pod is None:
            return None
        self._starting[name].cancel()
        await asyncio.gather(self._starting[name], return_exceptions=True)
        if (sandbox := self._sandboxes.pop(name, None)) is not None:
            await sandbox.stop()
        self._tell("DELETED", pod)
        return pod

    async def _log(self, request: web.Request) -> web.Response:
        return web.Response(text="\n".join(self.log.get(request.match_info["name"], [])))

    # Commands

    async def _exec(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        sandbox = self._sandboxes.get(name)
        if sandbox is None:
            return _status(404, "no such pod")
        socket = web.WebSocketResponse(protocols=["v4.channel.k8s.io"], max_msg_size=1 << 26)
        await socket.prepare(request)
        command = request.query.getall("command")
        self.log[name].append(" ".join(command)[:200])
        line = " ".join(_quoted(word) for word in command)
        if request.query.get("stdin", "").lower() == "true":
            line = f"{line} < {await self._take_stdin(socket, sandbox)}"

        async def output(data: bytes, stream: str) -> None:
            with contextlib.suppress(ConnectionError):
                await socket.send_bytes((b"\x01" if stream == "stdout" else b"\x02") + data)

        cut, self.cut_exec = self.cut_exec > 0, max(0, self.cut_exec - 1)
        env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/root"}
        try:
            done = await sandbox.channel.run(line, "/", env, None, 1 << 26, output)
        except RuntimeError:  # the pod went: the connection breaks without an exit status
            cut = True
        if cut:
            assert request.transport is not None
            request.transport.abort()
            return socket
        code = done.code
        causes = {"details": {"causes": [{"reason": "ExitCode", "message": str(code)}]}}
        status = {"status": "Success"} if code == 0 else {"status": "Failure", "reason": "NonZeroExitCode", **causes}
        with contextlib.suppress(ConnectionError):
            await socket.send_bytes(b"\x03" + orjson.dumps(status))
            await socket.close()
        return socket

    async def _take_stdin(self, socket: web.WebSocketResponse, sandbox: launch.Sandbox) -> str:
        """All of the archive that comes in (it ends in two blocks of zeros), as a file of the sandbox."""
        data = bytearray()
        while not (len(data) >= 10240 and len(data) % 10240 == 0 and not any(data[-1024:])):
            message = await socket.receive()
            if message.type is not WSMsgType.BINARY:
                break
            data += message.data[1:]
        local = Path(self._stdin.name) / secrets.token_hex(8)
        local.write_bytes(data)
        target = f"/tmp/.stdin-{local.name}"
        await sandbox.channel.upload(local, target)
        return target

    # Policies

    async def _add_policy(self, request: web.Request) -> web.Response:
        body = orjson.loads(await request.read())
        name = body["metadata"]["name"]
        if name in self.policies:
            return _status(409, "already exists")
        self.policies[name] = body
        return _json(body, 201)

    async def _list_policies(self, request: web.Request) -> web.Response:
        wanted = [pair.split("=") for pair in request.query.get("labelSelector", "").split(",") if pair]
        items = [p for p in self.policies.values() if all(p["metadata"]["labels"].get(key) == value for key, value in wanted)]
        return _json({"kind": "NetworkPolicyList", "apiVersion": "networking.k8s.io/v1", "metadata": {}, "items": items})

    async def _delete_policy(self, request: web.Request) -> web.Response:
        found = self.policies.pop(request.match_info["name"], None)
        return _json({"status": "Success"}) if found else _status(404, "no such policy")


def _kept_off(pod: dict[str, Any]) -> list[str]:
    required = pod["spec"].get("affinity", {}).get("nodeAffinity", {}).get("requiredDuringSchedulingIgnoredDuringExecution", {})
    rules = [rule for term in required.get("nodeSelectorTerms", []) for rule in term["matchExpressions"]]
    return [name for rule in rules if (rule["key"], rule["operator"]) == ("kubernetes.io/hostname", "NotIn") for name in rule["values"]]


def _state(main: dict[str, Any], waiting: str = "", message: str = "") -> dict[str, Any]:
    state = {"waiting": {"reason": waiting, "message": message}} if waiting else {"running": {"startedAt": _now()}}
    known = {"name": main["name"], "image": main["image"], "imageID": main["image"], "restartCount": 0}
    return {**known, "ready": not waiting, "started": not waiting, "state": state}


def _quoted(word: str) -> str:
    return "'" + word.replace("'", "'\\''") + "'"


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(value), status=status, content_type="application/json")


def _status(code: int, message: str) -> web.Response:
    return _json({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message}, code)
