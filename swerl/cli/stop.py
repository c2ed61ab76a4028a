"""The stop verb."""

from __future__ import annotations

import click

from swerl.cli.finding import find_run, only_living, run_options
from swerl.cli.next_step import of_run, say_next
from swerl.cli.options import Chosen


@click.command()
@run_options
@click.option("--now", "at_once", is_flag=True, help="End it without saving; steps after the last checkpoint will be done again.")
@click.option("--deadline", "deadline_s", type=float, metavar="SECONDS", help="End it without saving if the step is not done by then.")
@click.option("--timeout", "timeout_s", type=float, metavar="SECONDS", help="Wait no longer than this; the request stands.")
def stop(chosen: Chosen, run_id: str | None, runs_dir: str | None, at_once: bool, deadline_s: float | None, timeout_s: float | None) -> int:
    """Stop RUN (default: the one that is alive): it finishes its step, saves and ends.

    A run whose supervisor died has its leftovers ended."""
    from swerl.record.registry import Registry
    from swerl.record.states import LIVE, State
    from swerl.record.words import duration
    from swerl.runs.stop import StopRequest
    from swerl.runs.stop import stop as stop_run

    run = find_run(chosen, run_id, runs_dir, only_living)
    registry = Registry(run.registry)
    row = registry.get(run.id)
    if row is not None and row.state in LIVE:
        click.echo(f"asked run {run.id} to stop {'at once' if at_once else 'when its step is saved'}")
    elif row is not None:
        click.echo(f"run {run.id} is not alive: it is {row.state}")
    waits = iter(range(1, 1_000_000))

    def waiting() -> None:
        seconds = next(waits) / 2
        if seconds % 30 == 0:
            click.echo(f"still {registry.get(run.id).state} after {duration(seconds)}")

    row = stop_run(run, registry, StopRequest("now" if at_once else "drain", deadline_s), waiting=waiting, timeout_s=timeout_s)
    click.echo(f"run {run.id} is {row.state} at step {row.step or 0}; nothing of it is running")
    say_next(of_run("artifacts" if row.state == State.COMPLETED else "resume", run))
    return 0
