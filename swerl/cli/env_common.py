"""What the ``swerl env`` verbs share: their options and the project's lock."""

from __future__ import annotations

from pathlib import Path

import click

from swerl.environment.lock import Lock, find_lock, load_lock

lock_option = click.option("--lock", "lock_path", type=click.Path(path_type=Path), default=None, help="uv.lock; default: the project's.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print data instead of text.")
env_option = click.option(
    "--env", "roots", multiple=True, type=click.Path(path_type=Path), help="Environment; repeatable. Default: those under .venv."
)


def the_lock(path: Path | None) -> Lock:
    return load_lock(path or find_lock(Path.cwd()))
