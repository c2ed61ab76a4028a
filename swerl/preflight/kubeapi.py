"""A Kubernetes API server asked for a few facts, with the standard library: what a kubeconfig says, and GET and POST on it.

Found where the runner finds it: ``k8s.kubeconfig``, else the first file of KUBECONFIG, else ``~/.kube/config``, else the service account of
the pod this runs in. A program that the kubeconfig names for its credentials (exec: what clouds use) is run, as kubectl and the runner run
it. Read-only: the one POST is a SelfSubjectAccessReview, which stores nothing.
"""

from __future__ import annotations

import base64
import json
import os
import ssl
import tempfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from swerl.preflight.context import Context

EXEC_S = 6.0


class KubeError(Exception):
    """The kubeconfig or the server's answer is of no use; the text says why."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where the server is and how to speak to it."""

    server: str
    headers: dict[str, str]
    tls: ssl.SSLContext | None

    def date(self, *, timeout_s: float = 4.0) -> str | None:
        """The server's clock, as its answers carry it; None where it cannot be asked."""
        request = urllib.request.Request(self.server + "/version", headers=self.headers)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=self.tls))
        try:
            with opener.open(request, timeout=timeout_s) as answer:
                return answer.headers.get("Date")
        except urllib.error.HTTPError as error:
            return error.headers.get("Date")
        except OSError:
            return None

    def ask(self, path: str, body: dict[str, Any] | None = None, *, timeout_s: float = 4.0) -> Any:
        """The decoded answer. Raises KubeError with the server's own words, or TimeoutError."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.server + path, data, {**self.headers, "Content-Type": "application/json"})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=self.tls))
        try:
            with opener.open(request, timeout=timeout_s) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise KubeError(f"{path}: {error.code} {_message(error)}") from error
        except urllib.error.URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise TimeoutError(f"{self.server} gave no answer within {timeout_s:g} s") from error
            raise KubeError(f"{self.server} cannot be reached: {error.reason}") from error
        except json.JSONDecodeError as error:
            raise KubeError(f"{self.server}{path} answered something that is no JSON") from error


def _message(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.loads(error.read())["message"])
    except (ValueError, KeyError, TypeError):
        return str(error.reason)


def kubeconfig_of(ctx: Context) -> Path:
    """The file that counts, whether it is there or not."""
    listed = [Path(part) for part in ctx.env.get("KUBECONFIG", "").split(os.pathsep) if part]
    return ctx.cfg.k8s.kubeconfig or next((path for path in listed if path.is_file()), ctx.host.home / ".kube" / "config")


def cluster_of(ctx: Context) -> Cluster:
    """The cluster of this run; raises KubeError, or TimeoutError where the program for the credentials gives no answer."""
    return ctx.once("cluster", lambda: _find(ctx))


def _find(ctx: Context) -> Cluster:
    path, account = kubeconfig_of(ctx), ctx.host.service_account
    host, port = ctx.env.get("KUBERNETES_SERVICE_HOST"), ctx.env.get("KUBERNETES_SERVICE_PORT", "443")
    if ctx.cfg.k8s.kubeconfig is None and not path.is_file() and host and (account / "token").is_file():
        server = f"https://{f'[{host}]' if ':' in host else host}:{port}"
        headers = {"Authorization": f"Bearer {(account / 'token').read_text().strip()}"}
        return Cluster(server, headers, _tls({"certificate-authority": str(account / "ca.crt")}, {}))
    return read_kubeconfig(path, ctx)


def read_kubeconfig(path: Path, ctx: Context) -> Cluster:
    """The cluster of the current context. Raises KubeError."""
    try:
        config = yaml.safe_load(path.read_text())
        context = _named(config, "contexts", config["current-context"])["context"]
        cluster = _named(config, "clusters", context["cluster"])["cluster"]
        user = _named(config, "users", context["user"])["user"]
        if "exec" in user:
            user = {**user, **_credentials(user["exec"], ctx)}
        if "tokenFile" in user:
            user = {**user, "token": (path.parent / user["tokenFile"]).read_text().strip()}
        beside = {"certificate-authority", "client-certificate", "client-key"}  # paths are relative to the file they stand in
        cluster, user = ({k: str(path.parent / v) if k in beside else v for k, v in part.items()} for part in (cluster, user))
    except OSError as error:
        raise KubeError(f"{error.filename or path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise KubeError(f"{path} is no kubeconfig: {error!r}") from error
    headers = {"Authorization": f"Bearer {user['token']}"} if "token" in user else {}
    return Cluster(cluster["server"].rstrip("/"), headers, _tls(cluster, user) if cluster["server"].startswith("https:") else None)


def _credentials(asked: dict[str, Any], ctx: Context) -> dict[str, str]:
    """What the program of an ``exec`` entry gives: a token, or a certificate and its key."""
    info = {"apiVersion": asked["apiVersion"], "kind": "ExecCredential", "spec": {"interactive": False}}
    env = {**ctx.env, **{pair["name"]: pair["value"] for pair in asked.get("env") or ()}, "KUBERNETES_EXEC_INFO": json.dumps(info)}
    answer = ctx.ask([asked["command"], *(asked.get("args") or ())], timeout_s=EXEC_S, env=env)
    if not answer.ok:
        last = next((line for line in reversed(answer.err.splitlines()) if line.strip()), f"it ended with {answer.code}")
        raise KubeError(f"{asked['command']} gives no credentials: {last[:200]}")
    try:
        status = json.loads(answer.out)["status"]
        pems = {"client-certificate-data": "clientCertificateData", "client-key-data": "clientKeyData"}
        found = {name: base64.b64encode(status[key].encode()).decode() for name, key in pems.items() if key in status}
        return {**found, **({"token": status["token"]} if "token" in status else {})}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise KubeError(f"{asked['command']} answers something that is no ExecCredential") from error


def _named(config: dict[str, Any], kind: str, name: str) -> dict[str, Any]:
    found = next((entry for entry in config[kind] if entry["name"] == name), None)
    if found is None:
        raise KeyError(f"{kind}: {name}")
    return found


def _tls(cluster: dict[str, Any], user: dict[str, Any]) -> ssl.SSLContext:
    try:
        data = cluster.get("certificate-authority-data")
        context = ssl.create_default_context(
            cafile=cluster.get("certificate-authority"), cadata=base64.b64decode(data).decode() if data else None
        )
        if cluster.get("insecure-skip-tls-verify"):
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if "client-certificate" in user:
            context.load_cert_chain(user["client-certificate"], user["client-key"])
        elif "client-certificate-data" in user:
            with tempfile.NamedTemporaryFile(mode="wb") as both:  # ssl reads files only; this one is private and gone at once
                both.write(base64.b64decode(user["client-key-data"]) + b"\n" + base64.b64decode(user["client-certificate-data"]))
                both.flush()
                context.load_cert_chain(both.name)
    except (OSError, ValueError, KeyError) as error:
        raise KubeError(f"the certificates of the kubeconfig cannot be used: {error}") from error
    return context
