"""A figure as PNG, by Pillow, which the trainer's environment brings: drawn at four times its size and made smaller, so that lines are
smooth."""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

from swerl.report import drawing
from swerl.report.drawing import HEIGHT, WIDTH, Dot, Path, Place, Word
from swerl.report.figures import Figure
from swerl.report.palette import rgb
from swerl.report.svg import KEY_HEIGHT, TITLE_HEIGHT

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

SIZE = 2  # pixels of the picture per unit
FINE = 2  # and of what is drawn, per pixel
AREA = 0.15


def png(figure: Figure) -> bytes | None:
    """None where Pillow is not installed."""
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError:
        return None
    scale = SIZE * FINE
    height = TITLE_HEIGHT + HEIGHT + KEY_HEIGHT * len(figure.lines)
    picture = Image.new("RGB", (WIDTH * scale, height * scale), rgb("panel"))
    draw = ImageDraw.Draw(picture)
    small, title = ImageFont.load_default(11 * scale), ImageFont.load_default(13 * scale)
    draw.text((12 * scale, 17 * scale), figure.title, rgb("text"), title, anchor="ls")
    for mark in drawing.marks(figure):
        if isinstance(mark, Path):
            _path(draw, mark, scale)
        elif isinstance(mark, Word):
            anchor = {"start": "ls", "middle": "ms", "end": "rs"}[mark.anchor]
            draw.text(_at(mark.place, scale), mark.text.replace("–", "-"), rgb("muted"), small, anchor=anchor)
        elif isinstance(mark, Dot) and mark.shown:
            x, y = _at(mark.place, scale)
            draw.ellipse((x - 2.6 * scale, y - 2.6 * scale, x + 2.6 * scale, y + 2.6 * scale), rgb(mark.tone))
    for i, line in enumerate(figure.lines):
        y = (TITLE_HEIGHT + HEIGHT + i * KEY_HEIGHT + 2) * scale
        draw.rectangle((52 * scale, y, 62 * scale, y + 10 * scale), rgb(line.tone))
        draw.text((68 * scale, y + 9 * scale), line.label, rgb("muted"), small, anchor="ls")
    picture = picture.reduce(FINE).quantize(128, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    out = io.BytesIO()
    picture.save(out, "PNG", compress_level=6)
    return out.getvalue()


def _path(draw: ImageDraw, mark: Path, scale: int) -> None:
    places = [_at(place, scale) for place in mark.places]
    if mark.filled:
        tone, ground = rgb(mark.tone), rgb("panel")
        draw.polygon(places, tuple(round(AREA * a + (1 - AREA) * b) for a, b in zip(tone, ground, strict=True)))
    elif mark.tone == "grid":
        draw.line(places, rgb("grid"), scale)
    elif mark.dashed:
        for start, stop in _dashes(places, 4 * scale, 3 * scale):
            draw.line([start, stop], rgb(mark.tone), round(1.6 * scale))
    else:
        draw.line(places, rgb(mark.tone), round(1.6 * scale), joint="curve")


def _dashes(places: list[Place], on: float, off: float) -> Iterator[tuple[Place, Place]]:
    """Pieces of a line, dash by dash, along its length."""
    left, drawing_now = on, True
    for (x1, y1), (x2, y2) in pairwise(places):
        length = ((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5
        done = 0.0
        while done < length:
            piece = min(left, length - done)
            if drawing_now:
                a, b = done / length, (done + piece) / length
                yield (x1 + a * (x2 - x1), y1 + a * (y2 - y1)), (x1 + b * (x2 - x1), y1 + b * (y2 - y1))
            done, left = done + piece, left - piece
            if left <= 1e-9:
                drawing_now = not drawing_now
                left = on if drawing_now else off


def _at(place: tuple[float, float], scale: int) -> tuple[float, float]:
    y = place[1] + TITLE_HEIGHT
    return place[0] * scale, y * scale
