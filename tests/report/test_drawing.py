"""Where a figure's marks go: inside, in order, with ticks a person can read."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swerl.report import svg
from swerl.report.drawing import HEIGHT, LEFT, RIGHT, WIDTH, Dot, Path, marks, nice_ticks, number, words
from swerl.report.figures import Figure, Line
from swerl.report.png import png

VALUES = st.floats(-1e9, 1e9).filter(lambda v: v == 0 or abs(v) > 1e-12)
POINTS = st.lists(st.tuples(st.integers(0, 500), VALUES), min_size=1, max_size=30, unique_by=lambda p: p[0]).map(sorted)


@given(st.lists(POINTS, min_size=1, max_size=3), st.sampled_from(["number", "share", "seconds"]), st.booleans())
def test_every_mark_is_inside_and_every_value_has_one(lines, unit, from_zero):
    figure = Figure("f", "f", tuple(Line(f"l{i}", points, "teal") for i, points in enumerate(lines)), unit, from_zero)
    found = marks(figure)
    for mark in found:
        for x, y in mark.places if isinstance(mark, Path) else [mark.place]:
            assert -0.01 <= x <= WIDTH and -0.01 <= y <= HEIGHT
    dots = [mark for mark in found if isinstance(mark, Dot)]
    assert len(dots) == sum(map(len, lines))
    assert all(LEFT - 0.01 <= dot.place[0] <= WIDTH - RIGHT + 0.01 for dot in dots)
    ET.fromstring(svg.standalone(figure))


@given(VALUES, VALUES)
def test_ticks_are_round_even_and_within(a, b):
    low, high = min(a, b), max(a, b)
    if high - low <= 1e-9 * max(1.0, abs(low), abs(high)):
        return
    ticks = nice_ticks(low, high)
    assert 2 <= len(ticks) <= 11
    slack = 1e-6 * (high - low) + 1e-11
    assert all(low - slack <= t <= high + slack for t in ticks)


@pytest.mark.parametrize(
    ("value", "gap", "text"), [(0.25, 0.05, "0.25"), (0.0, 2e-7, "0"), (4e-7, 2e-7, "4.0e-7"), (21000.0, 1000.0, "21.0 k")]
)
def test_a_tick_has_the_digits_that_tell_it_from_the_next(value, gap, text):
    assert number(value, gap) == text


def test_a_flat_line_has_an_axis_around_it():
    figure = Figure("lr", "lr", (Line("lr", [(1, 1e-6), (2, 1e-6)], "teal"),))
    said = list(words(marks(figure)))
    assert "1.0e-6" in said
    nothing = Figure("clip", "clip", (Line("clip", [(1, 0.0), (2, 0.0)], "teal"),), "share")
    assert "0 %" in list(words(marks(nothing))) and not any(text.startswith("-") for text in words(marks(nothing)))
    rounding = Figure("corr", "corr", (Line("corr", [(1, 0.9999999), (2, 1.0)], "teal"),))
    assert "1.00000" in list(words(marks(rounding)))


def test_a_picture_shows_the_line_where_the_layout_puts_it():
    Image = pytest.importorskip("PIL.Image", reason="Pillow comes with the trainer's environment")
    from swerl.report.palette import rgb
    from swerl.report.png import SIZE
    from swerl.report.svg import TITLE_HEIGHT

    figure = Figure("v", "v", (Line("v", [(1, 0.2), (2, 0.2), (3, 0.8)], "teal", dots=True),))
    data = png(figure)
    assert data is not None and len(data) < 60_000 and data == png(figure)
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    for dot in (mark for mark in marks(figure) if isinstance(mark, Dot)):
        x, y = round(dot.place[0] * SIZE), round((dot.place[1] + TITLE_HEIGHT) * SIZE)
        assert all(abs(a - b) < 24 for a, b in zip(picture.getpixel((x, y)), rgb("teal"), strict=True))
