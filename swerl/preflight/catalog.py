"""All checks, in the order of the report, and what each has to say about itself."""

from __future__ import annotations

from swerl.preflight import (
    batch,
    clusters,
    configuration,
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
    *templates.CHECKS,
    *batch.CHECKS,
    *training.CHECKS,
    *tasks.CHECKS,
    *sandbox.CHECKS,
    *clusters.CHECKS,
    *reach.SANDBOX_CHECKS,
    *gpus.CHECKS,
    *reach.GPU_CHECKS,
    *host.CHECKS,
    *reach.HOST_CHECKS,
    *machine.CHECKS,
    *environments.CHECKS,
    *resume.CHECKS,
)


def by_id(id: str) -> Check | None:
    return next((c for c in CHECKS if c.id == id.upper()), None)


def explain(id: str) -> str:
    """What one check is about, as text; KeyError for an id that no check has."""
    check = by_id(id)
    if check is None:
        raise KeyError(id)
    kind = "live (asks the machine)" if check.live else "static (reads the profile and small files)"
    lines = [
        f"{check.id}  {check.title}  [{check.family}]",
        f"finds out whether {check.asks}.",
        f"do: {check.remedy}",
        f"severity: {check.severity}; {kind}; counts as hung after {check.budget_s:g} s"
        + ("; runs only when named or with deep" if check.slow else ""),
    ]
    if check.faults:
        lines.append("catalogued failures: " + ", ".join(f"J{n}" for n in check.faults))
    return "\n".join([*lines, f"docs/troubleshooting.md#{check.id.lower()}"])
