"""``python -m swerl.trials.reap --run-dir R``: remove a run's containers or pods, wherever its engine or cluster is; prints how many.

For the time after a run, when no runner of it lives; its caller has the run's lock. Exit code 1 with the reason when the engine or the
cluster cannot be asked.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from swerl.trials.sandboxes import engine
from swerl.trials.settings import KUBERNETES, run_tag


def elsewhere(tag: str, environment: Mapping[str, Any]) -> dict[str, int]:
    """What was removed of a run's sandboxes that live outside this host's processes: ``containers`` or ``pods``; empty for backends without
    any. RuntimeError when the engine or the cluster cannot be asked."""
    if engine.is_docker(environment):
        return {"containers": engine.reap(tag)}
    if (environment.get("import_path") or "").startswith(KUBERNETES.partition(":")[0]):
        from swerl.trials.sandboxes import cluster  # its client costs a second of import

        where = environment.get("kwargs", {})
        return {"pods": cluster.reap(tag, where["namespace"], where.get("kubeconfig"), where.get("context"))}
    return {}


@click.command(help=__doc__)
@click.option("--run-dir", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
def main(run_dir: Path) -> None:
    from swerl.config import load_resolved
    from swerl.render.trial import trial_settings

    try:
        found = elsewhere(run_tag(run_dir), trial_settings(load_resolved(run_dir / "resolved.json"))["environment"])
    except RuntimeError as error:
        sys.exit(str(error))
    print(sum(found.values()))


if __name__ == "__main__":
    main()
