"""The dashboard verb."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from swerl.cli.finding import find_run, find_runs_dir, run_options
from swerl.cli.options import Chosen


@click.command()
@run_options
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; any but the loopback one needs the token.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port; default: 8090, or the next free one.")
@click.option("--token", envvar="SWERL_DASHBOARD_TOKEN", help="Token for an address that others can reach; default: a new one.")
@click.option("--artifacts", type=click.Path(path_type=Path, file_okay=False), help="Artifacts whose archives are shown too.")
@click.option("--fd", type=int, hidden=True, help="Serve on this socket, which listens already.")
@click.option("--parent-pid", type=int, hidden=True, help="End when this process is no longer the parent.")
def dashboard(
    chosen: Chosen,
    run_id: str | None,
    runs_dir: str | None,
    host: str,
    port: int | None,
    token: str | None,
    artifacts: Path | None,
    fd: int | None,
    parent_pid: int | None,
) -> int:
    """Show runs in a browser: RUN first (default: the newest). Press Ctrl-C to end it; the runs go on."""
    from swerl.artifacts.ledger import ARCHIVES
    from swerl.config.schema import PROJECT_ROOT
    from swerl.dashboard.catalogue import Catalogue
    from swerl.dashboard.server import DashboardServer, serve
    from swerl.record.listening import Address

    if run_id is not None:
        find_run(chosen, run_id, runs_dir)  # a name that is wrong is told here, not in the browser
    catalogue = Catalogue(find_runs_dir(chosen, runs_dir), (artifacts or PROJECT_ROOT / "artifacts") / ARCHIVES)
    server = DashboardServer(catalogue, Address(host, 8090 if port is None else port, port is None, fd), token)

    def ready() -> None:
        click.echo(f"dashboard {server.url}" + (f"#/{run_id}/overview" if run_id else ""))

    asyncio.run(serve(server, ready, parent_pid))
    return 0
