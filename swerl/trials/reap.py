"""``python -m swerl.trials.reap --run-dir R``: remove a run's containers or pods, wherever its engine or cluster is; prints how many.

For the time after a run, when no runner of it lives; its caller has the run's lock. Exit code 1 with the reason when the engine or the
cluster cannot be asked.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from swerl.trials.backends import backend_of
from swerl.trials.settings import run_tag


@click.command(help=__doc__)
@click.option("--run-dir", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
def main(run_dir: Path) -> None:
    from swerl.config import load_resolved
    from swerl.render.trial import trial_settings

    try:
        environment = trial_settings(load_resolved(run_dir / "resolved.json"))["environment"]
        found = backend_of(environment).reap(run_tag(run_dir), environment)
    except RuntimeError as error:
        sys.exit(str(error))
    print(sum(found.values()))


if __name__ == "__main__":
    main()
