"""train and resume: preflight, then a supervised run to its end."""

from __future__ import annotations

import sys

import click

from swerl.cli.finding import ended_first, find_run, run_options
from swerl.cli.next_step import of_run, say_next, swerl
from swerl.cli.options import Chosen, config_options, patience_option
from swerl.config import RunConfig, load_resolved

detach_option = click.option("--detach", is_flag=True, help="Go on without this terminal; returns when the run is supervised.")


@click.command()
@config_options
@click.option("--fresh", is_flag=True, help="Begin anew: an earlier run of this name is moved aside, not deleted.")
@detach_option
@patience_option
def train(chosen: Chosen, fresh: bool, detach: bool, patience: float | None) -> int:
    """Train as the configuration says. The same command resumes after an end of any kind, from the newest checkpoint that verifies."""
    config = chosen.load()
    if detach:
        return let_go(config)
    checked = check(config, patience)
    if checked:
        say_next(swerl("train", chosen=chosen), first="mend what is fatal")
        return checked
    return carry_out(config, fresh, chosen=chosen)


@click.command()
@run_options
@detach_option
@patience_option
def resume(chosen: Chosen, run_id: str | None, runs_dir: str | None, detach: bool, patience: float | None) -> int:
    """Continue RUN (default: the newest that is not alive) with the configuration in its own directory."""
    run = find_run(chosen, run_id, runs_dir, ended_first)
    config = load_resolved(run.resolved)
    if detach:
        return let_go(config)
    return check(config, patience) or carry_out(config, fresh=False)


def let_go(config: RunConfig) -> int:
    """Give this very command, without ``--detach``, to a process of its own, and say how to look after it."""
    from swerl.record.rundir import RunDir
    from swerl.runs.detach import detach

    run = RunDir.at(config.run_dir)
    words = [word for word in sys.argv[1:] if word != "--detach"]
    started = detach([sys.executable, "-m", "swerl.cli", *words], run, click.echo)
    if started.code is not None:
        return started.code
    click.echo(f"run {run.id} goes on without this terminal: pid {started.pid}, {run.console}")
    say_next(of_run("status", run), of_run("logs", run, "--follow"), of_run("stop", run))
    return 0


def check(config: RunConfig, patience: float | None = None, skip: tuple[str, ...] = ()) -> int:
    """Preflight in a few lines: fatal problems, warnings, verdict. 1 when the run must not start; there is no way past it. ``skip`` are
    checks that only warn, of what a verb changes on purpose."""
    from swerl.preflight import run as run_preflight

    report = run_preflight(config, patience=patience, skip=skip)
    for problem in [*report.fatal, *report.warnings]:
        click.echo(f"{problem.severity}: {problem}")
    click.echo(f"preflight: {report.verdict()}")
    return 0 if report.ok else 1


def carry_out(config: RunConfig, fresh: bool, then: bool = True, chosen: Chosen | None = None) -> int:
    """Supervise the run and say how it ended; ``then``: also what may come next when it is complete. ``chosen``: what the user
    named, if not the run itself."""
    from swerl.artifacts.outputs import wandb_sync
    from swerl.artifacts.provenance import seal_run
    from swerl.record.rundir import RunDir
    from swerl.record.states import State
    from swerl.runs.companion import dashboard
    from swerl.runs.display import open_display
    from swerl.runs.launch import launch

    run = RunDir.at(config.run_dir)
    click.echo(f"run {run.id} in {run.root}")
    with dashboard(config, run, click.echo):
        row, outcome = launch(config, open_display, seal=seal_run, fresh=fresh, notice=click.echo)
    if outcome is None:
        click.echo(f"run {run.id} is complete already ({row.step} steps)")
        if then:
            anew = [] if chosen is None else [f"{swerl('train', '--fresh', chosen=chosen)}  # begins anew; the old run is kept beside it"]
            say_next(of_run("artifacts", run), *anew)
        return 0
    if outcome.problem is not None:
        click.echo(str(outcome.problem), err=True)
    click.echo(f"run {run.id} {row.state} at step {row.step or 0}" + (f" of {row.total_steps}" if row.total_steps else ""))
    for command in wandb_sync(run.root, config.environment.venv_path):
        click.echo(f"W&B was offline; to send it: {command}")
    click.echo(f"log {run.trainer_log}\nmetrics {run.metrics}\ncheckpoints {run.checkpoints}")
    if row.state == State.COMPLETED:
        if then:
            say_next(of_run("artifacts", run))
        return 0
    say_next(of_run("resume", run))
    if outcome.by_signal:
        return 130
    return 1 if row.state == State.FAILED or outcome.problem is not None else 0
