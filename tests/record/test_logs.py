"""What a log is asked: the first error, and the engines' rates."""

import pytest

from swerl.record.logs import RateLines, first_error, plain, read_new_lines, tail

CHAINED = """\
INFO starting
\x1b[36m(TaskRunner pid=123)\x1b[0m Traceback (most recent call last):
\x1b[36m(TaskRunner pid=123)\x1b[0m   File "a.py", line 1, in f
\x1b[36m(TaskRunner pid=123)\x1b[0m ValueError: data size must be divisible
\x1b[36m(TaskRunner pid=123)\x1b[0m
\x1b[36m(TaskRunner pid=123)\x1b[0m The above exception was the direct cause of the following exception:
Traceback (most recent call last):
  File "b.py", line 2, in g
ray.exceptions.RayTaskError(ValueError): ray::TaskRunner.run()
"""
PROBLEM = "Traceback (most recent call last):\n  File\nKeyError: 'x'\nSWERL-M001 policy/: weights are missing\n    do: build it\n"


@pytest.mark.parametrize(
    ("text", "number", "said"),
    [
        ("INFO Failed: b'RPC error: late'\nTraceback (most recent call last):\n  File x\nException: no room\n", 4, "Exception: no room"),
        ("Traceback (most recent call last):\n  File x\nException: \nThe port is taken\n", 3, "Exception: The port is taken"),
        (CHAINED, 4, "ValueError: data size must be divisible"),
        (PROBLEM, 4, "SWERL-M001 policy/: weights are missing"),
        ("warming up\nE 12:00 ERROR cannot bind\nbye\n", 2, "E 12:00 ERROR cannot bind"),
        ("one\ntwo\n\n", 2, "two"),
        ("no errors here: 0 errors\n", 1, "no errors here: 0 errors"),
    ],
)
def test_the_first_error_is_the_root_cause(tmp_path, text, number, said):
    log = tmp_path / "run.log"
    log.write_text(text)
    found = first_error(log)
    assert (found.number, found.text.strip()) == (number, said)
    assert found.where == f"{log}:{number}"


def test_an_earlier_life_is_not_searched_but_its_lines_count(tmp_path):
    log = tmp_path / "run.log"
    log.write_text(CHAINED)
    offset = log.stat().st_size
    with log.open("a") as file:
        file.write("hello\n")
    assert first_error(log, offset).where == f"{log}:10"
    assert first_error(log, log.stat().st_size) is None
    assert first_error(tmp_path / "none") is None


def test_rate_lines_are_copied_once_and_nothing_else(tmp_path):
    source, target = tmp_path / "a.log", tmp_path / "a_vllm.log"
    source.write_text("Avg prompt throughput: 1 (before this life)\n")
    rates = RateLines(source, target)
    with source.open("a") as file:
        file.write("(VLLMWorker pid=1) INFO Engine 000: Avg prompt throughput: 5.0 tokens/s, Running: 2 reqs\nloss 3\nAvg generation thro")
    rates.copy()
    with source.open("a") as file:
        file.write("ughput: 7\n")
    rates.copy()
    rates.copy()
    assert target.read_text() == "INFO Engine 000: Avg prompt throughput: 5.0 tokens/s, Running: 2 reqs\nAvg generation throughput: 7\n"


def test_new_lines_survive_truncation_and_absence(tmp_path):
    path = tmp_path / "x"
    assert read_new_lines(path, 0) == ([], 0)
    path.write_text("a\nb\nc")
    lines, offset = read_new_lines(path, 0)
    assert (lines, offset) == (["a", "b"], 4)
    path.write_text("z\n")
    assert read_new_lines(path, offset) == (["z"], 2)
    assert tail(path, 5) == ["z"] and tail(tmp_path / "none", 5) == []
    assert plain("\x1b[31m(Worker<x> pid=12, ip=1.2.3.4) hi\x1b[0m ") == "hi"
