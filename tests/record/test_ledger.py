"""A file of lines holds what its writer was told is written, and nothing else, whatever the disk does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swerl.errors import SwerlError
from swerl.record import ledger
from swerl.record.ledger import Ledger, append, damaged, every, objects

from .writers import WRITERS

HERE = Path(__file__).parent


@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_that_fills_inside_a_line_is_told_and_cuts_nothing(name: str, tmp_path: Path):
    command = [sys.executable, str(HERE / "writers.py"), name, str(tmp_path / "file.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=HERE.parents[1])
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"said": "OSError", "torn": 0, "found": [1, 3]}


@settings(deadline=None, max_examples=200)
@given(data=st.binary(min_size=1, max_size=60), pieces=st.lists(st.integers(1, 20), max_size=8), fails=st.booleans())
def test_an_append_is_whole_or_absent(tmp_path_factory: pytest.TempPathFactory, data: bytes, pieces: list[int], fails: bool):
    """``pieces``: how much each write takes; then the disk takes all, or nothing more."""
    path = tmp_path_factory.mktemp("l") / "f"
    path.write_bytes(b"before\n")
    left, real = list(pieces), os.write

    def write(fd: int, rest: bytes) -> int:
        if left:
            return real(fd, rest[: left.pop(0)])
        if fails:
            raise OSError(28, "No space left on device")
        return real(fd, rest)

    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger.os, "write", write)
        try:
            append(fd, data)
            is_whole = True
        except OSError:
            is_whole = False
    os.close(fd)
    assert is_whole or fails
    assert path.read_bytes() == b"before\n" + (data if is_whole else b"")


def test_what_cannot_be_synced_is_not_said_to_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(fd: int) -> None:
        raise OSError(5, "Input/output error")

    one = Ledger(tmp_path / "f")
    one.append({"n": 1})
    monkeypatch.setattr(ledger.os, "fdatasync", broken)
    with pytest.raises(OSError, match="Input/output"):
        one.append({"n": 2}, sync=True)
    assert list(objects(one.path)) == [{"n": 1}]


def test_a_failed_append_leaves_the_line_of_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Two processes write one file one after the other (the trainer's events); a cut by offset alone would take the other's line."""
    path = tmp_path / "f"
    one, real = Ledger(path), os.write

    def write(fd: int, rest: bytes) -> int:
        if fd != one.fd:
            return real(fd, rest)
        if os.fstat(fd).st_size:
            raise OSError(28, "No space left on device")
        count = real(fd, rest[:3])
        with path.open("ab") as other:
            other.write(b'\n{"n": 2}\n')
        return count

    monkeypatch.setattr(ledger.os, "write", write)
    with pytest.raises(OSError, match="No space"):
        one.append({"n": 1})
    assert list(objects(path)) == [{"n": 2}]


def test_the_next_writer_ends_a_torn_line_and_a_reader_leaves_it(tmp_path: Path):
    path = tmp_path / "f"
    path.write_bytes(b'{"n": 1}\n{"n": 2')
    assert list(objects(path)) == list(every(path)) == [{"n": 1}]
    assert path.read_bytes() == b'{"n": 1}\n{"n": 2'
    one = Ledger(path)
    one.append({"n": 3})
    one.close()
    assert list(objects(path)) == [{"n": 1}, {"n": 3}] and damaged(path) == [2]


@pytest.mark.parametrize("line", [b"{", b"[1]", b'"word"', b"\xff\xfe", b'{"n": 1}{"n": 2}', b"\0\0\0"])
def test_a_damaged_line_is_passed_over_or_named(tmp_path: Path, line: bytes):
    path = tmp_path / "f"
    path.write_bytes(b'{"n": 1}\n' + line + b'\n\n{"n": 4}\n')
    assert list(objects(path)) == [{"n": 1}, {"n": 4}] and damaged(path) == [2]
    with pytest.raises(SwerlError, match="SWERL-R051") as raised:
        list(every(path))
    assert raised.value.problems[0].where == f"{path}:2"


def test_a_late_thread_gets_an_error_and_writes_into_nobodys_file(tmp_path: Path):
    one = Ledger(tmp_path / "f")
    one.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        one.append({"n": 1})
