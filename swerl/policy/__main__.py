"""``python -m swerl.policy``: build the demo policy, continue it (supervised control) or measure it (blind controls)."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import click

from swerl.errors import SwerlError
from swerl.policy.recipe import RECIPES


@click.command(help=__doc__)
@click.option("--out", type=click.Path(path_type=Path), help="Directory to write weights, tokenizer and model_card.json to.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--threads", type=int, default=min(2, os.cpu_count() or 1), show_default=True, help="Part of the build's identity: sums depend on it."
)
@click.option("--recipe", type=click.Choice(list(RECIPES)), default="demo", show_default=True, help="large: for one GPU.")
@click.option("--continue", "source", type=click.Path(path_type=Path, exists=True), help="Start from this policy instead of from nothing.")
@click.option("--steps", type=int, help="With --continue: number of supervised steps.")
@click.option("--seconds", type=float, help="With --continue: as many steps as the source's build made in this time.")
@click.option("--gold", is_flag=True, help="With --continue: gold demonstrations only, instead of the build's mix.")
@click.option(
    "--measure", "measured", type=click.Path(path_type=Path, exists=True), help="Only print this policy's rates on the held-out tasks."
)
@click.option(
    "--instruction", type=click.Choice(["full", "file", "none"]), default="full", help="With --measure: what the policy may read."
)
def main(
    out: Path | None,
    seed: int,
    threads: int,
    recipe: str,
    source: Path | None,
    steps: int | None,
    seconds: float | None,
    gold: bool,
    measured: Path | None,
    instruction: str,
) -> None:
    if (out is None) == (measured is None):
        raise click.UsageError("give either --out or --measure")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin while they wait for each other lose most beside other work
    from swerl.policy import build  # torch loads here, not for --help, and reads that then

    try:
        if measured is not None:
            card = build.measure_policy(measured, instruction, threads, seed, RECIPES[recipe].task_size)
        elif source is not None:
            card = build.continue_training(source, out, steps, seconds, gold, threads)
        else:
            card = build.build(out, seed, threads, RECIPES[recipe])
    except SwerlError as error:
        click.echo(str(error), err=True)
        sys.exit(1)
    click.echo(json.dumps(card, indent=2))


if __name__ == "__main__":
    main()
