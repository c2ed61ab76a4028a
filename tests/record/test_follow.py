"""Following a file: whatever is appended in whatever pieces, its whole lines come out once and in order."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swerl.record import follow
from swerl.record.follow import Place, grown, read


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.binary(max_size=40).filter(lambda b: b"\n" not in b), max_size=30),
    st.lists(st.integers(1, 60), max_size=20),
    st.integers(1, 64),
)
def test_lines_come_once_and_in_order(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], cuts: list[int], chunk: int) -> None:
    path = tmp_path_factory.mktemp("f") / "events.jsonl"
    data = b"".join(line + b"\n" for line in lines)
    place, found, written = Place(), [], 0
    for cut in [*cuts, len(data)]:
        with path.open("ab") as file:
            file.write(data[written : written + cut])
        written = min(len(data), written + cut)
        for piece in read(path, place, chunk):
            assert not piece.anew
            found += piece.lines
            place = piece.place
    assert found == lines
    assert not lines or (place.offset == len(data) and not grown(path, place))


def test_a_replaced_or_shortened_file_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"one\ntwo\n")
    [piece] = read(path, Place())
    path.write_bytes(b"1\n")
    [again] = read(path, piece.place)
    assert again.anew and again.lines == [b"1"]
    other = tmp_path / "other"
    other.write_bytes(b"a\nb\n")
    other.replace(path)
    [third] = read(path, again.place)
    assert third.anew and third.lines == [b"a", b"b"]


def test_a_line_that_is_not_whole_waits(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    path.write_bytes(b"whole\nha")
    [piece] = read(path, Place())
    assert piece.lines == [b"whole"] and piece.place.offset == 6
    assert list(read(path, piece.place)) == []
    with path.open("ab") as file:
        file.write(b"lf\n")
    [rest] = read(path, piece.place)
    assert rest.lines == [b"half"]


def test_a_line_of_absurd_length_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "MAX_LINE_BYTES", 100)
    path = tmp_path / "e.jsonl"
    path.write_bytes(b"before\n" + b"x" * 1000 + b"\nafter\n")
    pieces = list(read(path, Place(), 64))
    assert [line for piece in pieces for line in piece.lines] == [b"before", b"after"]
    assert pieces[-1].place.passed_over >= 1 and pieces[-1].place.offset == path.stat().st_size
    assert not list(read(tmp_path / "none", Place()))
