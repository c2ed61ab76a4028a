"""The logs verb: what a run's processes print."""

from __future__ import annotations

import time

import click

from swerl.cli.finding import find_run, living_first, run_options
from swerl.cli.next_step import of_run, say_next
from swerl.cli.options import Chosen
from swerl.errors import fail

PROCESSES = ("trainer", "engine", "gateway", "runner", "supervisor")
LOOK_S = 0.5


@click.command()
@run_options
@click.option("--process", type=click.Choice(PROCESSES), default="trainer", show_default=True, help="Whose; engine: its rates alone.")
@click.option("-n", "--lines", type=click.IntRange(min=0), default=40, show_default=True, help="How many of the last lines.")
@click.option("-f", "--follow", is_flag=True, help="Go on until the run ends.")
def logs(chosen: Chosen, run_id: str | None, runs_dir: str | None, process: str, lines: int, follow: bool) -> int:
    """Show what a process of RUN (default: a living one, else the newest) prints.

    Numbers are in metrics.jsonl and events/, alarms in swerl status."""
    from swerl.record.logs import plain, read_new_lines, tail

    run = find_run(chosen, run_id, runs_dir, living_first)
    path = {"engine": run.vllm_log, "supervisor": run.console}.get(process, run.log_of(process))
    if not path.exists():
        remedy = "only a run that was started with --detach has one" if process == "supervisor" else "it has not been started yet"
        raise fail("SWERL-R032", f"{process} has no log", remedy, where=str(path))
    click.echo(f"{path}:")
    offset = path.stat().st_size
    for line in tail(path, lines) if lines else ():
        click.echo(line)
    lives = follow
    while lives:
        lives = _lives(run)  # asked before reading: what is written until the end is shown
        new, offset = read_new_lines(path, offset)
        for line in new:
            click.echo(plain(line))
        time.sleep(LOOK_S)
    say_next(of_run("status", run))
    return 0


def _lives(run) -> bool:
    from swerl.record.registry import Registry
    from swerl.record.states import LIVE

    registry = Registry(run.registry)
    try:
        row = registry.get(run.id)
    finally:
        registry.close()
    return row is not None and row.state in LIVE
