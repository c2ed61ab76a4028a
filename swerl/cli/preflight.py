"""The preflight verb."""

from __future__ import annotations

import click

from swerl.cli.next_step import say_next, swerl
from swerl.cli.options import Chosen, config_options, json_option, patience_option, say_json


@click.command()
@config_options
@click.option("--only", multiple=True, metavar="ID|FAMILY", help="Only these checks; repeatable.")
@click.option("--skip", multiple=True, metavar="ID|FAMILY", help="Not these checks; repeatable.")
@click.option("--static", "static", is_flag=True, help="Only what the files say; ask neither the machine nor a sandbox.")
@click.option("--deep", is_flag=True, help="Also the checks that take longer than ten seconds.")
@click.option("--explain", "explained", metavar="ID", help="Say what an id (of a check, an alarm, any problem) means, and what to do.")
@patience_option
@click.option("-v", "--verbose", is_flag=True, help="List the checks that do not apply, too.")
@json_option
def preflight(
    chosen: Chosen,
    only: tuple[str, ...],
    skip: tuple[str, ...],
    static: bool,
    deep: bool,
    explained: str | None,
    patience: float | None,
    verbose: bool,
    as_json: bool,
) -> int:
    """Find what would fail before it does: files, policy, tasks, sandbox, ports, GPUs, disk. Reads only; exit 1 if anything is fatal."""
    from swerl.preflight import explain, run_file

    try:
        if explained:
            click.echo(explain(explained))
            return 0
        report = run_file(
            chosen.file, chosen.profile, chosen.overrides, only=only, skip=skip, live=not static, deep=deep, patience=patience
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if as_json:
        say_json(report.as_dict())
    else:
        click.echo(report.render(verbose=verbose))
        say_next(swerl("train" if report.ok else "preflight", chosen=chosen), first="" if report.ok else "mend what is fatal")
    return 0 if report.ok else 1
