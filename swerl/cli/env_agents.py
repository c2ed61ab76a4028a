"""``swerl env agents``: the runtimes of coding agents, for sandboxes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from swerl.cli.env_common import lock_option, the_lock
from swerl.environment import agents as runtimes
from swerl.environment.agents_lock import BUILD_REQUIRES, pinned
from swerl.environment.agents_python import install_environments
from swerl.errors import fail


@click.command("agents")
@lock_option
@click.option("--out", type=click.Path(path_type=Path), default=Path("build/agents"), show_default=True)
@click.option("--only", multiple=True, metavar="NAME", help="Install this one of the table; may be repeated.")
@click.option("--check", is_flag=True, help="Compare every file with SHA256SUMS and install nothing.")
@click.option("--pin", "write_pins", is_flag=True, help="Resolve the Python agents anew and write their pins.")
def agents_command(lock_path: Path | None, out: Path, only: tuple[str, ...], check: bool, write_pins: bool) -> None:
    """Install the coding agents of containers/agents.json into a directory that sandboxes mount read-only."""
    project = the_lock(lock_path).path.parent
    table = runtimes.read_agents(project / "containers" / "agents.json")
    if unknown := set(only) - {agent.name for agent in table}:
        raise fail("SWERL-E033", f"the table has no agent {sorted(unknown)[0]}", f"it has {', '.join(a.name for a in table)}")
    if write_pins:
        requires = {agent.name: agent.requires for agent in table if isinstance(agent, runtimes.PythonAgent)}
        for name, wanted in {**requires, "build": BUILD_REQUIRES}.items():
            place = project / "containers" / "agents" / f"{name}.txt"
            place.parent.mkdir(exist_ok=True)
            place.write_text(pinned(project, wanted), encoding="utf-8")
            click.echo(f"{place}: {place.read_text().count('==')} packages")
        return
    if check:
        _check(out)
        return
    digest = runtimes.table_digest(project)
    if not only and runtimes.is_current(out, digest):
        click.echo(f"{out} is what the table says")
        return
    chosen = [agent for agent in table if not only or agent.name in only]
    for agent in chosen:
        click.echo(f"  {agent.name} {agent.version}")
    read = runtimes.cached(project / "build" / "agents-downloads", chosen)
    sums = runtimes.install(chosen, out, partial(install_environments, project), read)
    runtimes.write_manifest(chosen, out, "" if only else digest)
    click.echo(f"{out}: {len(chosen)} runtimes, {len(sums):,} files, each with its sha256 in SHA256SUMS")
    click.echo("next: name this directory in harbor_agent.runtime_dir (docs/environment.md)")


def _check(out: Path) -> None:
    if not (out / "SHA256SUMS").is_file():
        raise fail("SWERL-E039", f"no agents are installed in {out}", "run `make agents`", str(out))
    if found := runtimes.problems(out):
        more = f", and {len(found) - 1} more" if found[1:] else ""
        raise fail(
            "SWERL-E039", f"the agents in {out} are not what was installed: {found[0]}{more}", "remove it and run `make agents`", str(out)
        )
    click.echo(f"{out}: every file is what was installed")


COMMANDS = (agents_command,)
