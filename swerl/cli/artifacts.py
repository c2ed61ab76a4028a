"""The artifacts verb."""

from __future__ import annotations

from pathlib import Path

import click

from swerl.cli.finding import find_run, run_options
from swerl.cli.options import Chosen, json_option, say_json, say_next


@click.command()
@run_options
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="The artifacts directory; default: the project's.")
@click.option("--trials", type=click.IntRange(min=0), default=8, show_default=True, help="Trajectories that go along.")
@click.option("--notes", default="", help="Words for the ledger's row.")
@json_option
def artifacts(chosen: Chosen, run_id: str | None, runs_dir: str | None, out: Path | None, trials: int, notes: str, as_json: bool) -> int:
    """Gather RUN (default: the newest) into one archive, redacted, with a row in the ledger. The run itself is only read."""
    from swerl.artifacts import gather
    from swerl.runs.rundir import read_json

    run = find_run(chosen, run_id, runs_dir)
    archive = gather(run.root, artifacts_dir=out, trials=trials, notes=notes)
    if as_json:
        say_json({"run": run.id, "archive": str(archive), "results": read_json(archive / "results.json")})
        return 0
    click.echo(f"run {run.id} is gathered in {archive}\nledger {archive.parents[1] / 'index.yaml'}")
    say_next(f"less {archive / 'results.json'}")
    return 0
