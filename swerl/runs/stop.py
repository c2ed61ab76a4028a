"""Asking a run to stop. The request is a file, ``stop.request``: the trainer sees it between two steps, saves, and exits with 3."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from swerl.errors import fail
from swerl.record.lock import hold
from swerl.record.registry import Registry, Run
from swerl.record.rundir import RunDir, read_json, write_json
from swerl.record.states import LIVE
from swerl.runs import cleanup

Mode = Literal["drain", "now"]


@dataclass(frozen=True, slots=True)
class StopRequest:
    """``drain``: finish the step, save, end. ``now``: end without saving. ``deadline_s`` after which a drain ends without saving."""

    mode: Mode
    deadline_s: float | None = None


def read_request(path: Path) -> StopRequest | None:
    found = read_json(path)
    return None if found is None else StopRequest(found["mode"], found["deadline_s"])


def stop(
    run: RunDir, registry: Registry, request: StopRequest, *, waiting: Callable[[], None] = lambda: None, timeout_s: float | None = None
) -> Run:
    """Have the run stopped and return what it is then. ``waiting`` is called about twice a second meanwhile.

    A run whose supervisor is gone has its leftovers ended here. Raises SWERL-R016 for a run that nobody knows, SWERL-R017 when it still
    runs after ``timeout_s``; the request stands then."""
    known = registry.get(run.id)
    if known is None:
        raise fail("SWERL-R016", f"no run {run.id} is registered in {registry.path}", "swerl status lists the runs", where=str(run.root))
    if known.state not in LIVE:
        with hold(run.lock):
            cleanup.sweep(run, registry, grace_s=3.0)
            return registry.settle(run.id)
    write_json(run.stop_request, asdict(request))
    give_up = None if timeout_s is None else time.monotonic() + timeout_s
    while (now := registry.get(run.id)) is not None and now.state in LIVE:
        if give_up is not None and time.monotonic() > give_up:
            raise fail(
                "SWERL-R017",
                f"run {run.id} is still {now.state} after {timeout_s:.0f} s; it will stop when its step is saved",
                f"swerl stop {run.id} --now ends it without saving",
            )
        waiting()
        time.sleep(0.5)
    return stop(run, registry, request) if now is not None and now.recorded in LIVE else registry.settle(run.id)
