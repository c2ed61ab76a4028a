"""validate, render and the config group: everything about the file, nothing about a run."""

from __future__ import annotations

from pathlib import Path

import click

from swerl.cli.next_step import say_next, swerl
from swerl.cli.options import Chosen, config_options, json_option, say_json


@click.command()
@config_options
@json_option
def validate(chosen: Chosen, as_json: bool) -> int:
    """Check the configuration against the schema: unknown keys, types, bounds, placeholders, with file, line and column."""
    found = chosen.examine()
    fatal = [problem for problem in found.problems if problem.severity == "fatal"]
    if as_json:
        digest = found.config.digest if found.config else None
        say_json({"ok": not fatal, "digest": digest, "problems": [problem.as_dict() for problem in found.problems]})
        return 1 if fatal else 0
    for problem in found.problems:
        click.echo(str(problem))
    if fatal or found.config is None:
        click.echo(f"{chosen}: {len(fatal)} problems")
        say_next(swerl("validate", chosen=chosen), first="mend them")
        return 1
    click.echo(f"{chosen} is valid: run {found.config.run_id}, digest {found.config.digest[:12]}")
    say_next(swerl("preflight", chosen=chosen))
    return 0


@click.command()
@config_options
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Write the files here instead of printing them.")
@json_option
def render(chosen: Chosen, out: Path | None, as_json: bool) -> int:
    """Show what the run's processes would be given: environment file, verl's overrides, agent loop. Nothing is started."""
    from dataclasses import asdict

    from swerl.record.rundir import RunDir, write_atomic
    from swerl.render import render as render_config

    config = chosen.load()
    rendered = render_config(config, RunDir.at(config.run_dir))
    if as_json:
        say_json(asdict(rendered))
        return 0
    parts = {
        "run.env": rendered.environment_file,
        "verl.overrides": "\n".join(rendered.overrides) + "\n",
        "agent_loop.yaml": rendered.agent_loop,
    }
    for name, text in parts.items():
        if out is None:
            click.echo(f"# --- {name}\n{text}")
        else:
            write_atomic(out / name, text.encode(), mode=0o600)
    if out is not None:
        click.echo(f"wrote {', '.join(parts)} to {out}")
        say_next(swerl("preflight", chosen=chosen))
    return 0


@click.group()
def config() -> None:
    """Explain keys, migrate the reference's form, write the reference page."""


@config.command()
@click.argument("key")
def explain(key: str) -> None:
    """What KEY (section.name) means, its type, default, environment variable and verl keys."""
    from swerl.config.docs import explain as explanation

    click.echo(explanation(key))


@config.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write here; without it the result is printed.")
def migrate(file: Path, out: Path | None) -> int:
    """Rewrite FILE from the reference's nested form (meta_info, runtime_info.input). Every change is told on stderr."""
    from swerl.config.migrate import migrate as migrated
    from swerl.record.rundir import write_atomic

    text, notices = migrated(file.read_text(), str(file))
    for notice in notices:
        click.echo(f"note: {notice}", err=True)
    if out is None:
        click.echo(text, nl=False)
        return 0
    write_atomic(out, text.encode())
    click.echo(f"wrote {out}, {len(notices)} notices")
    say_next(swerl("validate", "--config", out))
    return 0


@config.command()
@click.option("--check", is_flag=True, help="Only say whether the page is up to date; exit 1 if not.")
def docs(check: bool) -> int:
    """Write docs/config.md from the schema."""
    from swerl.config.docs import PAGE, page
    from swerl.record.rundir import write_atomic

    current = PAGE.read_text() if PAGE.exists() else ""
    if check:
        click.echo(f"{PAGE.name} is {'up to date' if current == page() else 'out of date'}")
        return 0 if current == page() else 1
    write_atomic(PAGE, page().encode())
    click.echo(f"wrote {PAGE}")
    return 0
