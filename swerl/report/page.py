"""The whole page: one run, or several with what differs first. No script, no request: the policy in its head forbids both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files

from swerl.report import comparison, sections
from swerl.report.figures import TONES, Figure, figures
from swerl.report.markup import Markup, el
from swerl.report.palette import DARK, LIGHT
from swerl.report.summary import Summary
from swerl.report.transcripts import transcripts

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def page(named: Mapping[str, Summary]) -> str:
    """HTML. ``named`` maps what a run is called here to its summary; there is at least one."""
    drawn = figures(named)
    title = " against ".join(named)
    body = one_run(next(iter(named.values())), drawn) if len(named) == 1 else several(named, drawn)
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=POLICY),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="referrer", content="no-referrer"),
        el("title", f"swerl report: {title}"),
        el("style", Markup(_variables() + _style())),
    )
    whole = el("html", head, el("body", el("main", el("header", el("p", "swerl report"), el("h1", title)), body)), lang="en")
    return f"<!doctype html>\n{whole}\n"


def one_run(summary: Summary, drawn: Sequence[Figure]) -> list[Markup | None]:
    return [
        sections.headline(summary),
        sections.alarms(summary),
        sections.curves(drawn),
        sections.validations(summary),
        sections.outcomes(summary),
        sections.cost(summary),
        sections.tasks(summary, "val"),
        sections.tasks(summary, "train"),
        transcripts(summary),
        sections.configuration(summary),
        sections.origin(summary),
    ]


def several(named: Mapping[str, Summary], drawn: Sequence[Figure]) -> list[Markup | None]:
    tones = dict(zip(named, (TONES[i % len(TONES)] for i in range(len(named))), strict=True))
    found = [comparison.side_by_side(named, tones), comparison.differences(named), sections.curves(drawn), comparison.configurations(named)]
    for label, summary in named.items():
        parts = [sections.headline(summary), sections.alarms(summary), sections.validations(summary), sections.outcomes(summary)]
        parts += [sections.cost(summary), sections.origin(summary)]
        found.append(el("section", el("details", el("summary", el("h2", label)), parts), class_="run"))
    return found


def _variables() -> str:
    def block(colours: Mapping[str, str]) -> str:
        return "".join(f"--{name}:{colour};" for name, colour in colours.items())

    return f":root{{color-scheme:light dark;{block(LIGHT)}}}@media (prefers-color-scheme:dark){{:root{{{block(DARK)}}}}}\n"


def _style() -> str:
    return (files("swerl.report") / "report.css").read_text()
