"""What a configuration says about its sandboxes: their kind, and where an agent finds its runtime."""

from __future__ import annotations

from swerl.config.sections import HarborAgent

MOUNT = "/opt/custom-agent-runtime"  # in every sandbox, read-only: what `swerl env agents` installed


def backend(a: HarborAgent) -> str:
    """``kubernetes``, ``docker``, ``bubblewrap`` or ``other``, from the class or the name of the sandbox."""
    named = (a.environment_import_path or a.environment_type or "").lower()
    if "kubernetes" in named or "environments.ack" in named or named == "ack":
        return "kubernetes"
    if "environments.docker" in named or "sandboxes.docker" in named or named == "docker":
        return "docker"
    return "bubblewrap" if "bubblewrap" in named else "other"
