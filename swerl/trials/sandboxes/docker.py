"""What swerl adds to Harbor's Docker environment: containers that stop at once, carry the run's label, and find the gateway.

Harbor runs one compose project a trial. `overlay` is a compose file laid over each: an init process (a shell as process 1 ignores SIGTERM
and costs ten seconds at every stop), the label that `reap` goes by, and a name for the host. Nothing here starts an engine; Harbor needs
the docker client with compose v2.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

LABEL = "swerl.run"
HOST = "host.docker.internal"


def is_docker(environment: Mapping[str, Any]) -> bool:
    """Whether a run's ``environment`` (Harbor's field names) is Harbor's Docker environment."""
    named = environment.get("import_path") or environment.get("type") or ""
    return named == "docker" or named.startswith("harbor.environments.docker.")


def overlay(directory: Path, run_tag: str) -> Path:
    """Write the compose file for this run (JSON is YAML) and return its path. Repeatable."""
    labels = {LABEL: run_tag}
    main = {"init": True, "stop_grace_period": "1s", "labels": labels, "extra_hosts": [f"{HOST}:host-gateway"]}
    path = directory / "docker.overlay.yaml"
    directory.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"services": {"main": main}, "networks": {"default": {"labels": labels}}}, indent=1))
    return path


def inside_url(public_url: str) -> str:
    """The gateway's address as a container sees it: a gateway on this host's loopback is reached under the host's name."""
    parts = urlsplit(public_url)
    if parts.hostname not in ("127.0.0.1", "localhost", "::1"):
        return public_url
    return parts._replace(netloc=f"{HOST}:{parts.port}").geturl()


def reap(run_tag: str) -> int:
    """Remove containers and networks that carry this run's label; how many. RuntimeError with docker's words when it cannot be asked."""
    label = f"label={LABEL}={run_tag}"
    containers = _docker("ps", "--all", "--quiet", "--filter", label).split()
    if containers:
        _docker("rm", "--force", "--volumes", *containers)
    networks = _docker("network", "ls", "--quiet", "--filter", label).split()
    if networks:
        _docker("network", "rm", *networks)
    return len(containers) + len(networks)


def _docker(*arguments: str) -> str:
    try:
        done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(f"docker {arguments[0]}: {error}") from error
    if done.returncode != 0:
        raise RuntimeError(f"docker {arguments[0]}: {done.stderr.strip()[:500]}")
    return done.stdout
