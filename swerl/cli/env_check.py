"""``swerl env`` verbs that look: verify, inventory, export, lock-check, records. None changes an environment."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click
import orjson

from swerl.cli.env_common import env_option, json_option, lock_option, the_lock
from swerl.environment import disputes
from swerl.environment import inventory as inventory_module
from swerl.environment.exports import export_files
from swerl.environment.installed import Environment, read_environment
from swerl.environment.lock import Lock
from swerl.environment.lockcheck import ENVIRONMENTS, is_current, lock_problems
from swerl.environment.records import anchors_of, load_anchors, merge_anchors, missing_anchors, write_anchors
from swerl.environment.standing import note
from swerl.environment.verify import Report, installed_extras, verify
from swerl.errors import Problem, SwerlError, fail


@click.command("verify")
@env_option
@lock_option
@click.option("--extra", "extras", multiple=True, help="Extras the environment was made with; default: read from what is installed.")
@json_option
def verify_command(roots: Sequence[Path], lock_path: Path | None, extras: Sequence[str], as_json: bool) -> None:
    """Compare installed environments with the lock, file by file."""
    lock = the_lock(lock_path)
    anchors = load_anchors()
    reports = []
    for environment in _environments(roots, lock):
        chosen = tuple(extras) or installed_extras(environment, lock)
        report = verify(environment, lock, chosen, anchors)
        note(environment, lock, report)
        reports.append({"env": str(environment.root), **report.as_dict()})
        if not as_json:
            _print_report(environment, report)
    if as_json:
        click.echo(orjson.dumps(reports, option=orjson.OPT_INDENT_2).decode())
    if not all(r["ok"] for r in reports):
        sys.exit(1)


@click.command("inventory")
@click.option("--script", is_flag=True, help="Print the script instead: it runs on a host without swerl, with any Python from 3.10.")
def inventory_command(script: bool) -> None:
    """What this Python has, as JSON: the input of `swerl env bundle --inventory`."""
    if script:
        click.echo(Path(inventory_module.__file__).read_text(encoding="utf-8"), nl=False)
    else:
        click.echo(orjson.dumps(inventory_module.inventory(sys.path), option=orjson.OPT_INDENT_2).decode())


@click.command("export")
@lock_option
@click.option("--out", type=click.Path(path_type=Path), default=Path("build/exports"), show_default=True)
def export_command(lock_path: Path | None, out: Path) -> None:
    """Write pylock.toml, hashed requirements and an SBOM for each environment."""
    lock = the_lock(lock_path)
    out.mkdir(parents=True, exist_ok=True)
    for name, extras in ENVIRONMENTS.items():
        for filename, content in export_files(lock, name, extras).items():
            (out / filename).write_bytes(content)
            click.echo(f"{out / filename}  {len(content):,} bytes")


@click.command("lock-check")
@lock_option
@json_option
def lock_check_command(lock_path: Path | None, as_json: bool) -> None:
    """Is uv.lock current, canonical, hashed and of one CUDA version?"""
    lock = the_lock(lock_path)
    problems = lock_problems(lock)
    if not is_current(lock):
        problems.append(Problem("SWERL-E025", "pyproject.toml and uv.lock disagree", "run `make lock` and commit both", str(lock.path)))
    if problems:
        raise SwerlError(*problems)
    facts = {"lock_sha256": lock.sha256, "packages": len(lock.packages), "environments": list(ENVIRONMENTS)}
    click.echo(orjson.dumps(facts).decode() if as_json else f"uv.lock is sound: {len(lock.packages)} packages, sha256 {lock.sha256}")


@click.command("records")
@env_option
@lock_option
@click.option("--write", is_flag=True, help="Add the anchors of these environments; do it right after `uv sync` into fresh ones.")
def records_command(roots: Sequence[Path], lock_path: Path | None, write: bool) -> None:
    """Which locked wheels have an anchor in swerl/environment/records.json, and write those of fresh environments."""
    lock = the_lock(lock_path)
    anchors = dict(load_anchors())
    if write:
        for environment in _environments(roots, lock):
            disputes.refuse(environment, lock.left_out)
            anchors = merge_anchors(lock, anchors, anchors_of(environment, lock))
        write_anchors(anchors)
    missing = missing_anchors(lock, anchors, lock.packages.values())
    click.echo(f"{len(anchors)} anchors; {len(missing)} locked wheels without one{': ' if missing else ''}{', '.join(missing)}")


def _environments(roots: Sequence[Path], lock: Lock) -> list[Environment]:
    """Those named, or all of the project but ``.venv/uv``: it holds the installer, where the machine has none, and nothing of the lock."""
    folder = lock.path.parent / ".venv"
    chosen = list(roots) or sorted(p for p in folder.glob("*") if (p / "pyvenv.cfg").is_file() and p.name != "uv")
    if not chosen:
        raise fail("SWERL-E002", "there is no environment", "run `make setup`, or name one with --env", str(folder))
    return [read_environment(root) for root in chosen]


def _print_report(environment: Environment, report: Report) -> None:
    for problem in report.problems:
        click.echo(str(problem))
    facts = report.facts
    verdict = "is what the lock says" if report.ok else "DIFFERS from the lock"
    extras = "+".join(report.extras) or "none"
    click.echo(
        f"{environment.root} {verdict}: extras {extras}, {report.packages} packages ({report.anchored} anchored), "
        f"{report.files:,} files, {report.total_bytes / 1e9:.2f} GB hashed in {report.elapsed_s:.1f} s; "
        f"Python {report.python}, torch CUDA {facts.torch_cuda or 'absent'}, driver {facts.driver or 'absent'}"
    )


COMMANDS = (verify_command, inventory_command, export_command, lock_check_command, records_command)
