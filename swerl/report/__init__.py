"""Handing a run on: one HTML file that needs nothing else, and its curves as SVG and PNG.

``summary`` says what one run came to, as plain data that an archive keeps; ``figures`` makes curves of one summary or several;
``drawing`` lays a figure out, and ``svg`` and ``png`` are two ways to put the same lines down; ``page`` writes the HTML.

Invariants: the page asks for nothing from anywhere and runs no script; every word of a run, a transcript too, is text in it and never
markup; secrets that the run knows are taken out before anything is written; the same files give the same bytes; a run is only read.
"""

from swerl.report.summary import Summary, summary_of
from swerl.report.write import add_report, write_report

__all__ = ["Summary", "add_report", "summary_of", "write_report"]
