"""The clean verb: what dead runs left behind always, run directories only when named."""

from __future__ import annotations

import shutil

import click

from swerl.cli.finding import all_runs, find_runs_dir, run_options
from swerl.cli.next_step import say_next, swerl
from swerl.cli.options import Chosen
from swerl.errors import fail


@click.command()
@run_options
@click.option("--yes", is_flag=True, help="With RUN: remove its directory, checkpoints included, without asking.")
def clean(chosen: Chosen, run_id: str | None, runs_dir: str | None, yes: bool) -> int:
    """End processes and remove shared memory that dead runs left. With RUN, also remove that run. A living run is never touched."""
    from swerl.record.registry import Registry
    from swerl.record.rundir import RunDir
    from swerl.record.states import LIVE
    from swerl.runs.takeover import taken

    place = find_runs_dir(chosen, runs_dir)
    wanted = [run_id] if run_id else [row.id for row in all_runs(place) if row.state not in LIVE]
    for run in (RunDir.of(place, name) for name in wanted):
        if not run.root.exists():
            if run_id and all(row.id != run_id for row in all_runs(place)):
                raise fail("SWERL-R016", f"there is no run {run_id}", "swerl status lists the runs", where=str(run.root))
            Registry(run.registry).forget(run.id)
            click.echo(f"{run.id}: its directory is gone, and so is its row now")
            continue
        if run_id and not yes:
            click.confirm(f"remove {run.root} with its checkpoints, trials and logs?", abort=True)
        with taken(run) as held:
            if held.swept or not run_id:
                click.echo(f"{run.id}: {held.swept}")
            if run_id:
                held.registry.forget(run.id)
                shutil.rmtree(run.root)
                run.console.unlink(missing_ok=True)
                click.echo(f"{run.id}: removed {run.root}")
    if not wanted:
        click.echo(f"nothing to clean in {place}")
    say_next(swerl("status", *(("--runs-dir", runs_dir) if runs_dir else ())))
    return 0
