"""``python -m swerl.environment``: the ``swerl env`` verbs where the whole command line is not wanted, as in an image's build."""

from swerl.environment.cli import env

env(prog_name="swerl env")
