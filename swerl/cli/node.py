"""The node verb: this machine becomes one of a run's nodes."""

from __future__ import annotations

from pathlib import Path

import click

from swerl.cli.next_step import say_next


@click.command()
@click.argument("directory", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--rank", type=click.IntRange(min=1), required=True, help="Which node this is; the head is 0.")
@click.option("--ip", help="This node's address in the nodes' network; default: the one it reaches the head by.")
def node(directory: Path, rank: int, ip: str | None) -> int:
    """Check this machine and join the run in DIRECTORY, for as long as the run's head lives. The head prints this command."""
    from swerl.config import load_resolved
    from swerl.errors import fail
    from swerl.record.rundir import RunDir
    from swerl.runs.cluster import join, node_problems

    run = RunDir.at(directory)
    if not run.resolved.exists():
        raise fail("SWERL-R045", "there is no run here", "the run's directory must be on a disk that this node sees", str(run.root))
    config = load_resolved(run.resolved)
    if rank >= config.infrastructure.nnodes:
        raise fail("SWERL-R046", f"the run has nodes 0 to {config.infrastructure.nnodes - 1}", "name one of them", f"--rank {rank}")
    problems = node_problems(config)
    for problem in problems:
        click.echo(f"{problem.severity}: {problem}")
    if any(problem.severity == "fatal" for problem in problems):
        say_next("give the same command", first="mend what is fatal here")
        return 1
    click.echo(f"node {rank} joins {config.infrastructure.node0_ip}:{config.infrastructure.ray_port}")
    join(run, config, rank, ip)
    return 0
