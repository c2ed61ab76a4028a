"""The demo verb."""

from __future__ import annotations

import time
from dataclasses import replace

import click

from swerl.cli.next_step import of_run, say_next, swerl
from swerl.cli.options import Chosen, config_options

PROFILE = "demo-cpu"
DOCTOR_TASKS = 32


@click.command()
@config_options
@click.option("--fresh", is_flag=True, help="Train anew; the earlier run is kept beside it. Policy and tasks are kept.")
def demo(chosen: Chosen, fresh: bool) -> int:
    """The whole loop on this machine: builds a policy and tasks, trains, validates, gathers. The same command resumes.

    ``--profile h100x1`` does it on one GPU, with a larger policy and larger repositories.
    """
    from swerl import demo as steps
    from swerl.cli.doctor import examine
    from swerl.cli.train import carry_out, check
    from swerl.record.rundir import RunDir
    from swerl.record.words import duration

    chosen = replace(chosen, profile=chosen.profile or PROFILE)
    if chosen.profile not in steps.DEMONSTRATIONS:
        known = ", ".join(steps.DEMONSTRATIONS)
        raise click.BadParameter(
            f"there is no demonstration for the profile {chosen.profile!r}; there is one for {known}", param_hint="--profile"
        )
    recipe, size = steps.DEMONSTRATIONS[chosen.profile]
    config = chosen.load()
    began = time.monotonic()
    say = click.echo
    steps.build_policy(config, recipe, say)
    steps.make_tasks(config, size, say)
    steps.prove_tasks(config, say, examine, DOCTOR_TASKS)
    say("4/6 preflight")
    if check(config):
        say_next(swerl("demo", chosen=chosen), first="mend what is fatal")
        return 1
    say("5/6 training")
    code = carry_out(config, fresh, then=False)
    if code != 0:
        return code
    say(steps.table(steps.collect(config, say), config))
    run = RunDir.at(config.run_dir)
    say(f"the whole took {duration(time.monotonic() - began)}")
    say_next(
        f"{of_run('dashboard', run)}  # curves, trials and transcripts in a browser",
        f"{of_run('status', run)}  # the run on one screen",
        f"{swerl('demo', '--fresh', chosen=chosen)}  # train again from the start",
        f"{swerl('preflight', '--config', 'config.yaml')}  # what your own machine and model still need",
    )
    return 0
