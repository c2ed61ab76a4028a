"""The forecast verb."""

from __future__ import annotations

from pathlib import Path

import click

from swerl.cli.options import Chosen, config_options, json_option, say_json, say_next


@click.command()
@config_options
@click.option("--model-config", type=click.Path(path_type=Path, dir_okay=False), help="A config.json to use instead of the policy's.")
@click.option("--gpu-memory-gb", type=click.FloatRange(min=1), metavar="GIB", help="Memory of a GPU; default 80.")
@json_option
def forecast(chosen: Chosen, model_config: Path | None, gpu_memory_gb: float | None, as_json: bool) -> int:
    """Predict parameters, KV cache, trainer memory and checkpoint bytes from config.json and the profile alone."""
    from swerl.errors import SwerlError
    from swerl.preflight import predict
    from swerl.preflight.forecast import GIB, render

    found = chosen.examine()
    if found.config is None:  # a placeholder does not stand in a forecast's way, anything else does
        raise SwerlError(*[p for p in found.problems if p.severity == "fatal"])
    result = predict(found.config, model_config=model_config, gpu_memory_bytes=int(gpu_memory_gb * GIB) if gpu_memory_gb else None)
    if as_json:
        say_json(result.as_dict())
    else:
        click.echo(render(result))
        say_next(f"swerl preflight{chosen.words}")
    return 0
