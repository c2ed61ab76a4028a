"""``python -m swerl.trials --run-dir R``: serve the trial runner of a run until it is told to end (SIGTERM, SIGINT, POST /shutdown)."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # before Harbor: litellm would ask the network at import

import click

from swerl.config import load_resolved
from swerl.errors import SwerlError
from swerl.trials.service import Runner
from swerl.trials.settings import RunnerSettings, settings_from


async def serve(settings: RunnerSettings) -> None:
    runner = Runner(settings)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, runner.ended.set)
    await runner.start()
    print(f"runner: {runner.url}", flush=True)
    await runner.ended.wait()
    await runner.stop()


@click.command(help=__doc__)
@click.option("--run-dir", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
def main(run_dir: Path) -> None:
    try:
        asyncio.run(serve(settings_from(load_resolved(run_dir / "resolved.json"), run_dir.resolve())))
    except SwerlError as error:
        print(error, file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
