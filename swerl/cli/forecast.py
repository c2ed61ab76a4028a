"""The forecast verb: what a run will need, and what it needed after all."""

from __future__ import annotations

from pathlib import Path

import click

from swerl.cli.next_step import say_next, swerl
from swerl.cli.options import Chosen, config_options, json_option, say_json


class _Group(click.Group):
    """``swerl forecast`` forecasts; ``swerl forecast compare RUN`` compares."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        self.invoke_without_command = not args or args[0] not in self.commands
        return super().parse_args(ctx, args)


@click.group(cls=_Group, invoke_without_command=True)
@config_options
@click.option("--model-config", type=click.Path(path_type=Path, dir_okay=False), help="A config.json to use instead of the policy's.")
@click.option("--gpu-memory-gb", type=click.FloatRange(min=1), metavar="GIB", help="Memory of a GPU; default 80.")
@click.option("--steps", type=click.IntRange(min=1), help="Steps of the run, where the index is not here to count them.")
@click.option("--val-tasks", type=click.IntRange(min=0), help="Tasks of a validation, where its index is not here to count them.")
@click.option("--price", type=click.FloatRange(min=0), help="Price of a GPU hour, for the cost of the run.")
@click.option("--from", "measured", metavar="RUN", help="Take the size of trials from this run's metrics (a smoke run will do).")
@json_option
@click.pass_context
def forecast(
    ctx: click.Context,
    chosen: Chosen,
    model_config: Path | None,
    gpu_memory_gb: float | None,
    steps: int | None,
    val_tasks: int | None,
    price: float | None,
    measured: str | None,
    as_json: bool,
) -> int | None:
    """Predict memory, KV cache, disk, time and cost of a run from config.json and the profile alone."""
    if ctx.invoked_subcommand is not None:
        return None
    from swerl.errors import SwerlError
    from swerl.facts.memory import GIB
    from swerl.forecast.compare import trial_of_run
    from swerl.forecast.outlook import outlook
    from swerl.forecast.text import render
    from swerl.preflight import predict
    from swerl.record.rundir import RunDir

    found = chosen.examine()
    if found.config is None:  # a placeholder does not stand in a forecast's way, anything else does
        raise SwerlError(*[p for p in found.problems if p.severity == "fatal"])
    memory = int(gpu_memory_gb * GIB) if gpu_memory_gb else None
    result = predict(found.config, model_config=model_config, gpu_memory_bytes=memory, steps=steps, val_tasks=val_tasks)
    trial = trial_of_run(RunDir.of(found.config.experiment.runs_dir, measured), result.plan) if measured else None
    whole = outlook(result, trial=trial, price=price)
    if as_json:
        say_json({**result.as_dict(), "time": whole.as_dict()})
    else:
        click.echo(render(result, whole))
        say_next(swerl("preflight", chosen=chosen))
    return 0


@forecast.command()
@click.argument("run_id", metavar="RUN")
@click.option("--runs-dir", type=click.Path(path_type=Path, file_okay=False), default=Path("runs"), show_default=True)
@json_option
def compare(run_id: str, runs_dir: Path, as_json: bool) -> int:
    """Hold the forecast of RUN's own configuration against what the run measured."""
    from dataclasses import asdict

    from swerl.forecast.compare import compared, render_comparison
    from swerl.preflight import predict
    from swerl.record.rundir import RunDir

    rows = compared(RunDir.of(runs_dir, run_id), lambda config, shape: predict(config, model_config=shape))
    if as_json:
        say_json([asdict(row) for row in rows])
    else:
        click.echo(render_comparison(rows))
    return 0
