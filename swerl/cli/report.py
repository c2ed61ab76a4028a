"""The report verb."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click

from swerl.cli.finding import find_run
from swerl.cli.next_step import say_next
from swerl.cli.options import Chosen, config_options, json_option, say_json

_ARCHIVE = re.compile(r"run_\d{3,}")


@click.command()
@config_options
@click.argument("runs", metavar="[RUN]...", nargs=-1)
@click.option("--runs-dir", metavar="DIR", help="Where the runs are; default: as configured, else runs/.")
@click.option("--artifacts", type=click.Path(path_type=Path, file_okay=False), help="The artifacts directory; default: the project's.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Where to write; default: reports/<names> in the artifacts.")
@click.option("--samples", type=click.IntRange(min=0), default=8, show_default=True, help="Trials shown with what was said in them.")
@json_option
def report(
    chosen: Chosen, runs: tuple[str, ...], runs_dir: str | None, artifacts: Path | None, out: Path | None, samples: int, as_json: bool
) -> int:
    """One self-contained HTML file about RUN (default: the newest), or several compared. RUN is a run's name, an archive's (run_001), or a
    directory of either. Curves lie beside it as SVG and PNG."""
    from swerl.artifacts.ledger import ARCHIVES
    from swerl.config.schema import PROJECT_ROOT
    from swerl.record.rundir import RunDir
    from swerl.report import summary_of, write_report

    root = artifacts or PROJECT_ROOT / "artifacts"

    def found(word: str) -> RunDir:
        for place in [Path(word), *([root / ARCHIVES / word] if _ARCHIVE.fullmatch(word) else [])]:
            if (place / "manifest.json").is_file():
                return RunDir.at(place)
        return find_run(chosen, word, runs_dir)

    places = [found(word) for word in runs] or [find_run(chosen, None, runs_dir)]
    named = {}
    for place in places:
        summary = summary_of(place, samples)
        label = summary.run if summary.run == place.id else f"{summary.run} ({place.id})"
        named[label if label not in named else str(place.root)] = summary
    folder = out or root / "reports" / "-and-".join(dict.fromkeys(place.id for place in places))[:120]
    written = write_report(folder, named)
    if as_json:
        say_json({"report": str(written.page), "curves": written.curves, "pictures": written.pictures, "runs": list(named)})
        return 0
    click.echo(f"report {written.page}\n{written.curves} curves in {folder / 'curves'}, {written.pictures} of them as PNG too")
    say_next(f"open {shlex.quote(str(written.page))} in a browser")
    return 0
