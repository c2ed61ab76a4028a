"""The artifacts verb: gather a run, or verify and sign what was gathered."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from swerl.cli.finding import find_run, run_options
from swerl.cli.next_step import say_next, swerl
from swerl.cli.options import Chosen, json_option, say_json


class GatherOr(click.Group):
    """``swerl artifacts [RUN]`` gathers; a first word that names another verb of the group is that verb."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ("-h", "--help")):
            args = ["gather", *args]
        return super().parse_args(ctx, args)


@click.group(cls=GatherOr)
def artifacts() -> None:
    """Gather a run into an archive (`swerl artifacts [RUN]`), verify and sign archives."""


@artifacts.command("gather")
@run_options
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="The artifacts directory; default: the project's.")
@click.option("--trials", type=click.IntRange(min=0), default=8, show_default=True, help="Trajectories that go along.")
@click.option("--notes", default="", help="Words for the ledger's row.")
@json_option
def gather_run(chosen: Chosen, run_id: str | None, runs_dir: str | None, out: Path | None, trials: int, notes: str, as_json: bool) -> int:
    """Gather RUN (default: the newest) into one archive, redacted, with a row in the ledger. The run itself is only read."""
    from swerl.artifacts.gather import gather
    from swerl.record.rundir import read_json
    from swerl.report import add_report

    run = find_run(chosen, run_id, runs_dir)
    archive = gather(run.root, report=add_report, artifacts_dir=out, trials=trials, notes=notes)
    if as_json:
        say_json({"run": run.id, "archive": str(archive), "results": read_json(archive / "results.json")})
        return 0
    click.echo(f"run {run.id} is gathered in {archive}\nledger {archive.parents[1] / 'index.yaml'}")
    say_next(shlex.join(["less", str(archive / "results.json")]), swerl("artifacts", "verify", archive))
    return 0


@artifacts.command("verify")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--key", type=click.Path(path_type=Path, dir_okay=False), help="Public key that must have signed the statement.")
@json_option
def verify(folder: Path, key: Path | None, as_json: bool) -> int:
    """Compare the files of an archive or a run's directory with its statement."""
    from swerl.artifacts.provenance import check

    found = check(folder, key)
    if as_json:
        say_json({"subjects": found.subjects, "signed_by": key and str(key), "problems": [p.as_dict() for p in found.problems]})
    else:
        for problem in found.problems:
            click.echo(str(problem))
        signed = f"signed by {key}" if key else "signature not asked for (--key)"
        verdict = "is what its statement says" if not found.problems else "DIFFERS from its statement"
        click.echo(f"{folder} {verdict}: {found.subjects} files, {signed}")
    return 1 if found.problems else 0


@artifacts.command("sign")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--key", type=click.Path(path_type=Path, dir_okay=False), required=True, help="Ed25519 private key in PEM.")
def sign(folder: Path, key: Path) -> int:
    """Sign the statement of an archive or a run's directory with a key of this machine."""
    from swerl.artifacts.provenance import sign_folder

    click.echo(f"signed: {sign_folder(folder, key)}")
    say_next(swerl("artifacts", "verify", folder, "--key", f"{key}.pub"))
    return 0


@artifacts.command("key")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def key_pair(file: Path) -> int:
    """Make a key pair: FILE (keep it) and FILE.pub (give it to whoever verifies)."""
    from swerl.artifacts.signing import make_key

    click.echo(f"private key {file}, public key {make_key(file)}")
    return 0
