"""What the detectors see, and how long they look."""

import time

import pytest

from swerl.trials.detectors import detect


@pytest.mark.parametrize("word", ["while ", "while :", "fork(", "git -c x ", "chmod 0", "ln -s", "kill -", "seq 1", ": ", "/proc/", "nc"])
def test_a_detector_looks_for_a_bounded_time(word):
    """It runs beside other trials, on what an agent wrote."""
    began = time.process_time()
    detect([word * (60_000 // len(word))] * 1000)
    assert time.process_time() - began < 5


def test_a_fork_bomb_is_seen():
    assert [f.kind for f in detect(["while True:\n  pass", "while os.fork() or True: os.fork()", "x"])] == ["tried-fork-bomb"]
