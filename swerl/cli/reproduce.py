"""The reproduce verb."""

from __future__ import annotations

from typing import Any

import click

from swerl.cli.finding import find_run, run_options
from swerl.cli.next_step import of_run, say_next
from swerl.cli.options import Chosen, json_option, say_json

SHOWN = 10


@click.command()
@run_options
@click.option("--live", is_flag=True, help="From nothing, trials and all; default: train again from the trials that RUN recorded.")
@click.option("--steps", type=click.IntRange(min=1), help="Stop after so many; default: as many as RUN has.")
@click.option("--accept", multiple=True, metavar="NAME", help="Go on although NAME is not as it was (repeatable).")
@click.option("--check", "only_check", is_flag=True, help="Only name what is not as it was.")
@json_option
def reproduce(
    chosen: Chosen, run_id: str | None, runs_dir: str | None, live: bool, steps: int | None, accept: tuple[str, ...], only_check: bool,
    as_json: bool,
) -> int:  # fmt: skip
    """Do RUN (default: the newest) again and compare every number and every weight with it.

    Refuses when code, lock, environment, model, tasks or machine are not what they were, and names them."""
    from swerl.artifacts.provenance import seal_run
    from swerl.artifacts.reproduce import differences
    from swerl.artifacts.reproduce import reproduce as do_again
    from swerl.runs.display import open_display
    from swerl.runs.launch import launch

    run = find_run(chosen, run_id, runs_dir)
    mode: Any = "live" if live else "recorded"
    if only_check:
        found = differences(run, mode)
        for difference in found:
            click.echo(str(difference))
        click.echo(f"{run.id}: {len(found)} differences of situation" if found else f"{run.id}: the situation is what it was")
        return 1 if found else 0

    def carry_out(config: Any, plan: Any) -> None:
        _, outcome = launch(config, open_display, seal=seal_run, fresh=True, plan=plan, notice=click.echo)
        if outcome is not None and outcome.problem is not None:
            raise click.ClickException(str(outcome.problem))

    result = do_again(run, mode, carry_out=carry_out, notice=click.echo, steps=steps, accept=accept)
    if as_json:
        shown = [{"name": d.name, "then": d.then, "now": d.now} for d in result.differences]
        say_json({"run": run.id, "again": result.run.id, "steps": result.steps, "numbers": result.numbers, "tensors": result.tensors,
                  "exact_expected": result.exact, "differences": shown})  # fmt: skip
    else:
        for difference in result.differences[:SHOWN]:
            click.echo(str(difference))
        what = f"{result.numbers} numbers and {result.tensors} tensors over {result.steps} steps"
        unequal = len(result.differences)
        click.echo(f"{run.id} and {result.run.id}: {what}, {f'{unequal} differ' if unequal else 'the same bit for bit'}")
        if unequal and not result.exact:
            click.echo("bit for bit was not to be expected: it is on the CPU, from recordings or with harbor_runtime.num_workers: 1")
        say_next(of_run("artifacts", result.run))
    return 1 if result.differences and result.exact else 0
