"""Which run a verb is about: named, or of the configuration, or the newest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from swerl.cli.options import Chosen, config_options
from swerl.errors import fail
from swerl.record.registry import Registry, Run
from swerl.record.rundir import REGISTRY_NAME, RunDir
from swerl.record.states import LIVE


def run_options[F: Callable[..., Any]](function: F) -> F:
    """``[RUN]``, ``--runs-dir`` and the options of a configuration."""
    function = click.option("--runs-dir", metavar="DIR", help="Where the runs are; default: as configured, else runs/.")(function)
    function = click.argument("run_id", metavar="[RUN]", required=False)(function)
    return config_options(function)


def find_runs_dir(chosen: Chosen, given: str | None) -> Path:
    """A configuration that cannot be loaded still leaves the default place."""
    if given:
        return Path(given).absolute()
    config = chosen.examine().config if chosen.file.exists() else None
    return config.experiment.runs_dir if config else Path("runs").absolute()


def find_run(chosen: Chosen, run_id: str | None, given: str | None, choose: Callable[[list[Run]], Run] | None = None) -> RunDir:
    """The run named; else the one of ``--profile`` or ``--set``, if any was given; else what ``choose`` takes of the registered ones,
    newest first (default: the newest)."""
    runs_dir = find_runs_dir(chosen, given)
    if run_id is None and (chosen.profile or chosen.overrides):
        run_id = chosen.load().run_id
    if run_id is None:
        registered = all_runs(runs_dir)
        if not registered:
            raise fail("SWERL-R019", "no run has been started here", "swerl train, or name another --runs-dir", where=str(runs_dir))
        run_id = (choose(registered) if choose else registered[0]).id
    run = RunDir.of(runs_dir, run_id)
    if not run.manifest.exists():
        raise fail("SWERL-R016", f"there is no run {run_id}", "swerl status lists the runs", where=str(run.root))
    return run


def living_first(runs: list[Run]) -> Run:
    return next((run for run in runs if run.state in LIVE), runs[0])


def ended_first(runs: list[Run]) -> Run:
    return next((run for run in runs if run.state not in LIVE), runs[0])


def only_living(runs: list[Run]) -> Run:
    """For a verb that ends what it is about: it does not guess which."""
    alive = [run for run in runs if run.state in LIVE]
    if len(alive) > 1:
        names = ", ".join(run.id for run in alive)
        raise fail("SWERL-R023", f"{len(alive)} runs are alive: {names}", f"name the one that is meant: swerl stop {alive[0].id}")
    return living_first(runs)


def all_runs(runs_dir: Path):
    """Newest first; nothing is created by asking."""
    path = runs_dir / REGISTRY_NAME
    if not path.exists():
        return []
    registry = Registry(path)
    try:
        return registry.all()
    finally:
        registry.close()
