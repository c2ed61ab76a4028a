"""A session's file: cut by nobody but its heir."""

import pytest

from swerl.errors import SwerlError
from swerl.record.session_journal import inherit, read_journal


def test_a_reader_leaves_the_bytes_and_the_heir_cuts_the_torn_line(tmp_path):
    path = tmp_path / "s.jsonl"
    torn = b'{"k":"open"}\n{"k":"turn","id":1}\n{"k":"turn","id'
    path.write_bytes(torn)
    assert [line["k"] for line in read_journal(path)] == ["open", "turn"] and path.read_bytes() == torn
    assert [line["k"] for line in inherit(path)] == ["open", "turn"]
    assert path.read_bytes() == torn[: torn.rindex(b"\n") + 1]
    before = path.stat().st_mtime_ns
    inherit(path)
    assert path.stat().st_mtime_ns == before, "a whole file is not touched"


def test_a_turn_is_not_served_without_those_before_it(tmp_path):
    path = tmp_path / "s.jsonl"
    path.write_bytes(b'{"k":"open"}\n{"k":"tu\n{"k":"turn","id":2}\n')
    for read in (inherit, lambda path: list(read_journal(path))):
        with pytest.raises(SwerlError, match="SWERL-R051"):
            read(path)


def test_a_session_that_is_not_there_is_no_empty_one(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_journal(tmp_path / "s.jsonl")
