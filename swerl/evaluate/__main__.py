"""``python -m swerl.evaluate --run-dir R``: the trials of the evaluation in R, whose services are up. Exit code 1: it could not finish."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from swerl.config import load_resolved
from swerl.errors import SwerlError
from swerl.evaluate import order
from swerl.evaluate.drive import carry_out
from swerl.record.rundir import RunDir


@click.command(help=__doc__)
@click.option("--run-dir", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
def main(run_dir: Path) -> None:
    run = RunDir.at(run_dir)
    asked = order.read(run)
    assert asked is not None, "the command writes the order before it starts a process"
    try:
        carry_out(run, load_resolved(run.resolved), asked)
    except SwerlError as error:
        print(error, file=sys.stderr, flush=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
