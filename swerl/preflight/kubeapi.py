"""A Kubernetes API server asked for a few facts, with the standard library: what a kubeconfig says, and GET and POST on it.

Read-only: the one POST is a SelfSubjectAccessReview, which stores nothing. A kubeconfig that gets its credentials from a program (exec)
is refused with a sentence, since running that program is not this room's to do.
"""

from __future__ import annotations

import base64
import json
import ssl
import tempfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


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


def read_kubeconfig(path: Path) -> Cluster:
    """The cluster of the current context. Raises KubeError."""
    try:
        config = yaml.safe_load(path.read_text())
        context = _named(config, "contexts", config["current-context"])["context"]
        cluster = _named(config, "clusters", context["cluster"])["cluster"]
        user = _named(config, "users", context["user"])["user"]
    except OSError as error:
        raise KubeError(f"{path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise KubeError(f"{path} is no kubeconfig: {error!r}") from error
    if "exec" in user:
        raise KubeError(f"{path} gets its credentials from the program {user['exec'].get('command')!r}, which preflight does not run")
    headers = {"Authorization": f"Bearer {user['token']}"} if "token" in user else {}
    return Cluster(cluster["server"].rstrip("/"), headers, _tls(cluster, user) if cluster["server"].startswith("https:") else None)


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
