"""All checks, in the order of the report."""

from __future__ import annotations

from swerl.preflight import (
    adapters,
    batch,
    cards,
    clusters,
    configuration,
    containers,
    environments,
    gpus,
    host,
    machine,
    policy,
    reach,
    resume,
    sandbox,
    tasks,
    templates,
    training,
)
from swerl.preflight.check import Check

CHECKS: tuple[Check, ...] = (
    *configuration.CHECKS,
    *policy.CHECKS,
    *adapters.CHECKS,
    *templates.CHECKS,
    *batch.CHECKS,
    *training.CHECKS,
    *tasks.CHECKS,
    *sandbox.CHECKS,
    *containers.CHECKS,
    *clusters.CHECKS,
    *reach.SANDBOX_CHECKS,
    *gpus.CHECKS,
    *cards.CHECKS,
    *host.CHECKS,
    *reach.HOST_CHECKS,
    *machine.CHECKS,
    *environments.CHECKS,
    *resume.CHECKS,
)
