"""train and resume: preflight, then a supervised run to its end."""

from __future__ import annotations

import click

from swerl.cli.finding import find_run, run_options
from swerl.cli.options import Chosen, config_options, say_next
from swerl.config import RunConfig, load_resolved


@click.command()
@config_options
@click.option("--fresh", is_flag=True, help="Begin anew: an earlier run of this name is moved aside, not deleted.")
def train(chosen: Chosen, fresh: bool) -> int:
    """Train as the configuration says. The same command resumes after an end of any kind, from the newest checkpoint that verifies."""
    config = chosen.load()
    checked = check(config)
    if checked:
        say_next(f"mend what is fatal, then swerl train{chosen.words}")
        return checked
    return carry_out(config, fresh)


@click.command()
@run_options
def resume(chosen: Chosen, run_id: str | None, runs_dir: str | None) -> int:
    """Continue RUN (default: the newest) with the configuration in its own directory."""
    run = find_run(chosen, run_id, runs_dir)
    config = load_resolved(run.resolved)
    return check(config) or carry_out(config, fresh=False)


def check(config: RunConfig) -> int:
    """Preflight in a few lines: fatal problems, warnings, verdict. 1 when the run must not start; there is no way past it."""
    from swerl.preflight import run as run_preflight

    report = run_preflight(config)
    for problem in [*report.fatal, *report.warnings]:
        click.echo(f"{problem.severity}: {problem}")
    click.echo(f"preflight: {report.verdict()}")
    return 0 if report.ok else 1


def carry_out(config: RunConfig, fresh: bool, then: bool = True) -> int:
    """Supervise the run and say how it ended; ``then``: also what may come next when it is complete."""
    from swerl.runs.display import open_display
    from swerl.runs.launch import launch
    from swerl.runs.rundir import RunDir
    from swerl.runs.states import State

    run = RunDir.at(config.run_dir)
    click.echo(f"run {run.id} in {run.root}")
    row, outcome = launch(config, open_display, fresh=fresh, notice=click.echo)
    if outcome is None:
        click.echo(f"run {run.id} is complete already ({row.step} steps)")
        if then:
            say_next(f"swerl artifacts {run.id}", "swerl train --fresh begins anew; the old run is kept beside it")
        return 0
    if outcome.problem is not None:
        click.echo(str(outcome.problem), err=True)
    click.echo(f"run {run.id} {row.state} at step {row.step or 0}" + (f" of {row.total_steps}" if row.total_steps else ""))
    click.echo(f"log {run.trainer_log}\nmetrics {run.metrics}\ncheckpoints {run.checkpoints}")
    if row.state == State.COMPLETED:
        if then:
            say_next(f"swerl artifacts {run.id}")
        return 0
    say_next(f"swerl resume {run.id}")
    if outcome.by_signal:
        return 130
    return 1 if row.state == State.FAILED or outcome.problem is not None else 0
