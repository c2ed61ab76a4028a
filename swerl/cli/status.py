"""The status verb."""

from __future__ import annotations

import click

from swerl.cli.finding import all_runs, find_run, find_runs_dir, living_first, run_options
from swerl.cli.next_step import of_run, say_next, swerl
from swerl.cli.options import Chosen, json_option, say_json


@click.command()
@run_options
@click.option("--watch", "watching", is_flag=True, help="Look again every few seconds until the run is over; Ctrl-C ends it earlier.")
@click.option("--every", "every_s", type=click.FloatRange(min=0.2), default=3.0, show_default=True, help="Seconds between two looks.")
@json_option
def status(chosen: Chosen, run_id: str | None, runs_dir: str | None, watching: bool, every_s: float, as_json: bool) -> int:
    """Where RUN stands, on one screen; without RUN, all runs, and a living one (else the newest) closer."""
    from dataclasses import asdict

    from swerl.record.registry import Registry
    from swerl.record.states import LIVE, State
    from swerl.runs.status import one_screen, status_of, table

    runs = all_runs(find_runs_dir(chosen, runs_dir))
    named = bool(run_id or chosen.profile or chosen.overrides)
    if not runs and not named:
        if as_json:
            say_json([])
        else:
            click.echo("no run has been started here")
            say_next(swerl("demo"), swerl("train"))
        return 0
    run = find_run(chosen, run_id, runs_dir, living_first)
    registry = Registry(run.registry)
    try:
        if watching:
            from swerl.runs.watching import screen, watch

            shown, show = screen()
            try:
                with shown:
                    watch(lambda: status_of(run, registry), show, every_s)
            except KeyboardInterrupt:
                click.echo()
            return 0
        found = status_of(run, registry)
    finally:
        registry.close()
    if as_json:
        say_json(found.as_dict() if named else [asdict(row) for row in runs])
        return 0
    if len(runs) > 1 and not named:
        click.echo(table(runs) + "\n")
    click.echo(one_screen(found))
    verb = "stop" if found.run.state in LIVE else "artifacts" if found.run.state == State.COMPLETED else "resume"
    say_next(of_run(verb, run))
    return 0
