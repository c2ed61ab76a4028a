"""A figure as SVG: within the page it takes the page's colours, as a file it brings its own."""

from __future__ import annotations

from swerl.report import drawing
from swerl.report.drawing import HEIGHT, WIDTH, Dot, Path, Word
from swerl.report.figures import Figure
from swerl.report.markup import Markup, el
from swerl.report.palette import LIGHT

KEY_HEIGHT, TITLE_HEIGHT = 18, 24
_STYLE = (
    "text { font: 11px system-ui, sans-serif; fill: %(muted)s } .title { font-size: 13px; font-weight: 600; fill: %(text)s }"
    " .grid { stroke: %(grid)s } path { fill: none; stroke-width: 1.6 } .area { stroke: none; opacity: .15 }"
    " .dashed { stroke-dasharray: 4 3 }"
)


def inline(figure: Figure) -> Markup:
    """For the page: colours by class."""
    told = ", ".join(f"{line.label} {drawing.UNITS[figure.unit](line.points[-1][1], 0.0)}" for line in figure.lines)
    return el(
        "svg", _marks(figure), viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=f"{figure.title}; last values: {told}", class_="plot"
    )


def standalone(figure: Figure) -> str:
    """A whole file with title, key and its own colours."""
    height = TITLE_HEIGHT + HEIGHT + KEY_HEIGHT * len(figure.lines)
    colours = "".join(
        f" .t-{tone} {{ stroke: {colour} }} .t-{tone}.area, circle.t-{tone}, rect.t-{tone} {{ fill: {colour}; stroke: none }}"
        for tone, colour in LIGHT.items()
    )
    key = [
        el(
            "g",
            el("rect", x=52, y=TITLE_HEIGHT + HEIGHT + i * KEY_HEIGHT + 2, width=10, height=10, class_=f"t-{line.tone}"),
            el("text", line.label, x=68, y=TITLE_HEIGHT + HEIGHT + i * KEY_HEIGHT + 11),
        )
        for i, line in enumerate(figure.lines)
    ]
    whole = el(
        "svg",
        el("style", Markup(_STYLE % LIGHT + colours)),
        el("rect", width=WIDTH, height=height, fill=LIGHT["panel"]),
        el("text", figure.title, x=12, y=17, class_="title"),
        el("g", _marks(figure), transform=f"translate(0 {TITLE_HEIGHT})"),
        key,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH} {height}",
        width=WIDTH,
        height=height,
    )
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{whole}\n'


def _marks(figure: Figure) -> list[Markup]:
    found = []
    for mark in drawing.marks(figure):
        if isinstance(mark, Path):
            found.append(_path(mark))
        elif isinstance(mark, Word):
            found.append(el("text", mark.text, x=_n(mark.place[0]), y=_n(mark.place[1]), text_anchor=mark.anchor))
        elif isinstance(mark, Dot):
            shown = {} if mark.shown else {"fill_opacity": 0}
            radius = 2.6 if mark.shown else 5  # a value without a dot still has a place to point at
            found.append(
                el("circle", el("title", mark.told), cx=_n(mark.place[0]), cy=_n(mark.place[1]), r=radius, class_=f"t-{mark.tone}", **shown)
            )
    return found


def _path(mark: Path) -> Markup:
    if mark.tone == "grid":
        (x1, y1), (x2, y2) = mark.places
        return el("line", x1=_n(x1), y1=_n(y1), x2=_n(x2), y2=_n(y2), class_="grid")
    d = "M" + "L".join(f"{_n(x)} {_n(y)}" for x, y in mark.places) + ("Z" if mark.filled else "")
    return el("path", d=d, class_=f"t-{mark.tone}{' area' if mark.filled else ''}{' dashed' if mark.dashed else ''}")


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
