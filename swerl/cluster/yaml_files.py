"""Manifests as files: YAML whose bytes depend on the configuration alone."""

from __future__ import annotations

from typing import Any

import yaml

from swerl.cluster.kuberay import kuberay
from swerl.cluster.options import ManifestOptions
from swerl.cluster.sandboxes import sandboxes
from swerl.config.runconfig import RunConfig


def render(config: RunConfig, options: ManifestOptions) -> dict[str, str]:
    """File name to text, numbered in the order of `kubectl apply`."""
    return {
        "10-sandboxes.yaml": _dump(sandboxes(config, options)),
        "20-run.yaml": _dump(kuberay(config, options)),
    }


class _Plain(yaml.SafeDumper):
    """Every object in full: an anchor that points elsewhere is hard to read in a manifest."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _dump(objects: list[dict[str, Any]]) -> str:
    return yaml.dump_all(objects, Dumper=_Plain, sort_keys=False, width=140, default_flow_style=False, explicit_start=True)
