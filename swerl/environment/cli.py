"""The ``swerl env`` verbs: `cli_check` looks, `cli_ship` makes, `cli_agents` installs agents.

Problems are raised; the command line tells them and sets the exit code."""

from __future__ import annotations

import click

from swerl.environment import cli_agents, cli_check, cli_ship


@click.group()
def env() -> None:
    """The locked environment: verify, inventory, export, images, bundle."""


for command in (*cli_check.COMMANDS, *cli_ship.COMMANDS, *cli_agents.COMMANDS):
    env.add_command(command)
