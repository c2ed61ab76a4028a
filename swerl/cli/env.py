"""The ``swerl env`` verbs: `env_check` looks, `env_ship` makes, `env_agents` installs agents.

Problems are raised; the command line tells them and sets the exit code."""

from __future__ import annotations

import click

from swerl.cli import env_agents, env_check, env_ship


@click.group()
def env() -> None:
    """The locked environment: verify, inventory, export, images, bundle."""


for command in (*env_check.COMMANDS, *env_ship.COMMANDS, *env_agents.COMMANDS):
    env.add_command(command)
