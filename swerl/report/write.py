"""Writing a report: ``report.html``, and every curve beside it as ``curves/<name>.svg`` and ``.png``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from swerl.record.rundir import RunDir, write_atomic
from swerl.report import svg
from swerl.report.figures import figures
from swerl.report.page import page
from swerl.report.png import png
from swerl.report.summary import NAME, Summary, summary_of

PAGE, CURVES = "report.html", "curves"


@dataclass(frozen=True, slots=True)
class Written:
    """``pictures`` is how many curves have a PNG: none of them where Pillow is missing."""

    page: Path
    curves: int
    pictures: int


def add_report(folder: Path, run: RunDir, samples: int) -> None:
    """The report of one run with ``samples`` transcripts, and the summary it is made from, so that reports can be made from archives
    alone."""
    summary = summary_of(run, samples)
    (folder / NAME).write_bytes(summary.to_json())
    write_report(folder, {summary.run: summary})


def write_report(folder: Path, named: Mapping[str, Summary]) -> Written:
    """Write the report of ``named`` into ``folder``; files of an earlier one are replaced."""
    drawn = figures(named)
    pictures = 0
    for figure in drawn:
        write_atomic(folder / CURVES / f"{figure.file}.svg", svg.standalone(figure).encode())
        picture = png(figure)
        if picture is not None:
            write_atomic(folder / CURVES / f"{figure.file}.png", picture)
            pictures += 1
    write_atomic(folder / PAGE, page(named).encode())
    return Written(folder / PAGE, len(drawn), pictures)
