"""Is a container image there? One HEAD on the registry's manifest, with an anonymous token where the registry asks for one."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass

_ACCEPT = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)


class RegistryUnreachable(Exception):
    """No answer from the registry: nothing is known about the image."""


@dataclass(frozen=True, slots=True)
class Image:
    """A reference taken apart as Docker does: Docker Hub where no registry is named, ``latest`` where no tag is."""

    registry: str
    repository: str
    reference: str

    @classmethod
    def parse(cls, name: str) -> Image:
        rest, _, digest = name.partition("@")
        head, slash, tail = rest.partition("/")
        named = slash and ("." in head or ":" in head or head == "localhost")
        registry, path = (head, tail) if named else ("docker.io", rest)
        path, _, tag = path.partition(":")
        if registry == "docker.io":
            registry, path = "registry-1.docker.io", path if "/" in path else f"library/{path}"
        return cls(registry, path, digest or tag or "latest")

    @property
    def url(self) -> str:
        plain = self.registry.partition(":")[0] in {"localhost", "127.0.0.1"}  # Docker, too, speaks plain HTTP to these only
        return f"{'http' if plain else 'https'}://{self.registry}/v2/{self.repository}/manifests/{self.reference}"


def exists(image: Image, *, timeout_s: float = 4.0) -> bool:
    """Whether the registry has it for anybody. A refusal (401, 403, 404) is no; raises RegistryUnreachable without an answer."""
    try:
        return _head(image.url, {}, timeout_s)
    except _TokenWanted as wanted:
        try:
            return _head(image.url, {"Authorization": f"Bearer {_token(wanted.challenge, timeout_s)}"}, timeout_s)
        except (_TokenWanted, urllib.error.HTTPError):
            return False
    except urllib.error.URLError as error:
        raise RegistryUnreachable(f"{image.registry}: {error.reason}") from error
    except OSError as error:
        raise RegistryUnreachable(f"{image.registry}: {error}") from error


class _TokenWanted(Exception):
    def __init__(self, challenge: str):
        self.challenge = challenge


def _head(url: str, headers: dict[str, str], timeout_s: float) -> bool:
    request = urllib.request.Request(url, method="HEAD", headers={"Accept": _ACCEPT, **headers})
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            return answer.status == 200
    except urllib.error.HTTPError as error:
        if error.code == 401 and error.headers.get("WWW-Authenticate", "").startswith("Bearer "):
            raise _TokenWanted(error.headers["WWW-Authenticate"]) from error
        if error.code in (401, 403, 404):
            return False
        raise urllib.error.URLError(f"answered {error.code}") from error


def _token(challenge: str, timeout_s: float) -> str:
    fields = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    query = urllib.parse.urlencode({k: fields[k] for k in ("service", "scope") if k in fields})
    with urllib.request.urlopen(f"{fields['realm']}?{query}", timeout=timeout_s) as answer:
        body = json.loads(answer.read())
    return body.get("token") or body["access_token"]
