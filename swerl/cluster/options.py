"""What a cluster needs to be told beyond config.yaml: the image, names of claims and secrets, and the size of a node."""

from __future__ import annotations

from dataclasses import dataclass

from swerl.errors import fail


@dataclass(frozen=True, slots=True)
class ManifestOptions:
    """``image`` is pinned by digest; a tag alone is refused, since the run's manifest promises bytes.

    ``cpus_per_gpu`` and ``memory_gb_per_gpu`` size each GPU pod; the trial runner's share comes on top, for the head only.
    """

    image: str
    namespace: str = "swerl"
    runs_claim: str = "swerl-runs"
    data_claim: str = "swerl-data"
    model_claim: str = "swerl-models"
    secret: str = "swerl-secrets"
    kubeconfig_secret: str = "swerl-kubeconfig"
    cpus_per_gpu: int = 12
    memory_gb_per_gpu: int = 128
    ray_version: str = "2.60.0"
    active_deadline_s: int | None = None

    def __post_init__(self) -> None:
        if "@sha256:" not in self.image:
            raise fail(
                "SWERL-E034",
                f"the image {self.image} is not pinned by digest",
                "pass NAME@sha256:DIGEST, as `make image` prints it",
                "--image",
            )
