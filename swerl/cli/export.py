"""The export verb."""

from __future__ import annotations

from pathlib import Path

import click

from swerl.cli.next_step import say_next, swerl
from swerl.cli.options import Chosen, config_options, json_option, say_json


@click.command()
@config_options
@click.option(
    "--policy", "given", metavar="RUN|CHECKPOINT", help="A run's directory or .../global_step_N; default: the run's newest checkpoint."
)
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Directory to write; default: exports/<run>-<step> in artifacts/."
)
@click.option("--adapter", is_flag=True, help="Of a LoRA checkpoint: the adapters alone, as PEFT reads them, instead of merged weights.")
@json_option
def export(chosen: Chosen, given: str | None, out: Path | None, adapter: bool, as_json: bool) -> int:
    """Write a checkpoint as a Hugging Face directory, and check it: loaded, its logits are the checkpoint's."""
    from swerl.config.schema import PROJECT_ROOT
    from swerl.evaluate import policies
    from swerl.evaluate.export import export as write

    config = chosen.load()
    policy = policies.choose(config, given)
    place = Path(policy.name)
    name = f"{place.parents[1].name}-{place.name}" + ("-adapter" if adapter else "")
    target = (out or PROJECT_ROOT / "artifacts" / "exports" / name).absolute()
    record = write(policy, config, target, lambda text: click.echo(text, err=as_json), adapter=adapter)
    if as_json:
        say_json({"directory": str(target), **record})
        return 0
    found = record["check"]
    differ = f"logits differ by at most {found['largest_difference']:.2g} of {found['largest_logit']:.3g}"
    click.echo(f"{target}: {policy.version} of {policy.name}")
    click.echo(f"{differ}; {found['same_choices']:.1%} of {found['positions']} choices are the same")
    say_next(swerl("eval", "--policy", target, chosen=chosen))
    return 0
