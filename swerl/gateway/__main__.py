"""``python -m swerl.gateway --run-dir R [--engine-url URL]``: serve the gateway of a run until it is told to end."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click
import uvloop

from swerl.config import load_resolved
from swerl.errors import SwerlError
from swerl.gateway.limits import raise_open_files
from swerl.gateway.service import serve
from swerl.gateway.settings import settings_from


@click.command(help=__doc__)
@click.option("--run-dir", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--engine-url", help="A vLLM server to sample from, instead of waiting for the trainer's bridge.")
def main(run_dir: Path, engine_url: str | None) -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the parsers import torch; no memory of a GPU is for this process
    raise_open_files()
    try:
        config = load_resolved(run_dir / "resolved.json")
        uvloop.run(serve(settings_from(config, run_dir.resolve(), engine_url)))
    except SwerlError as error:
        print(error, file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
