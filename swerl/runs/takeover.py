"""Taking a run over: the lock, the truth about its last life, and an end to what that life left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from swerl.record.lock import hold
from swerl.record.registry import Registry, Run
from swerl.record.rundir import RunDir
from swerl.runs import cleanup
from swerl.runs.cleanup import Swept


@dataclass(frozen=True, slots=True)
class Taken:
    """A run that is ours now. ``before`` is its row as the last life left it, None for a new run."""

    run: RunDir
    registry: Registry
    before: Run | None
    swept: Swept


@contextmanager
def taken(run: RunDir, sweep_grace_s: float = 3.0) -> Iterator[Taken]:
    """Hold the run for the length of the block. SWERL-R006 when somebody else does. A directory without a row, or a row without a
    directory, is what a kill at the very beginning or a person's ``rm`` leaves: both are new runs."""
    existed = run.manifest.exists()
    with hold(run.lock):
        registry = Registry(run.registry)
        try:
            before = registry.get(run.id)
            if before is not None:
                before = registry.settle(run.id)
            swept = cleanup.sweep(run, registry, grace_s=sweep_grace_s)
            if before is not None and not existed:
                registry.forget(run.id)
                before = None
            yield Taken(run, registry, before, swept)
        finally:
            registry.close()
