"""Kubernetes objects as pure functions of a RunConfig: no cluster is asked, nothing is read but the arguments.

``kuberay(config, options)`` gives the run: a RayJob, its configuration and the service that sandboxes reach the gateway by.
``sandboxes(config, options)`` gives the namespace where trials run: quota, network policy, and an account that may do there what the
runner does and nothing else. ``render(...)`` is both as YAML by file name, the same bytes for the same configuration.

Secrets are named, never held: the objects refer to a Secret that the user makes. Paths are those of the configuration, so that one
configuration is right inside the pods: the claims are mounted where it says that the model, the tasks and the runs are.
"""

from swerl.cluster.kuberay import kuberay
from swerl.cluster.options import ManifestOptions
from swerl.cluster.sandboxes import sandboxes
from swerl.cluster.yaml_files import render

__all__ = ["ManifestOptions", "kuberay", "render", "sandboxes"]
