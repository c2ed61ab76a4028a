"""What a configuration says about its sandboxes: their kind, and where an agent finds its runtime."""

from __future__ import annotations

import re
from collections.abc import Mapping

from swerl.config.sections import HarborAgent

MOUNT = "/opt/custom-agent-runtime"  # in every sandbox, read-only: what `swerl env agents` installed
KUBERNETES = "swerl.trials.sandboxes.kubernetes:KubernetesEnvironment"

# A kind of sandbox -> words of which one stands in the dotted path of its class, or is Harbor's name for it.
WORDS: Mapping[str, frozenset[str]] = {
    "bubblewrap": frozenset({"bubblewrap"}),
    "docker": frozenset({"docker"}),
    "kubernetes": frozenset({"kubernetes", "ack"}),
}


def kind_of(named: str) -> str:
    """``bubblewrap``, ``docker``, ``kubernetes`` or ``other``, from the class or the name of a sandbox."""
    words = set(re.split(r"[.:]", named.lower()))
    return next((kind for kind, known in WORDS.items() if words & known), "other")


def backend(a: HarborAgent) -> str:
    """The kind of sandbox that a configuration asks for."""
    return kind_of(a.environment_import_path or a.environment_type or "")
