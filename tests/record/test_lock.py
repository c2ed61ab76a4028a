"""One holder at a time; the kernel lets go when the holder dies."""

import os
import signal
import subprocess
import sys

import pytest

from swerl.errors import SwerlError
from swerl.record.lock import hold

HOLDER = """
import sys
from pathlib import Path
from swerl.record.lock import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    input()
"""


def test_the_second_is_refused_and_told_who_holds_it(tmp_path):
    path = tmp_path / "a" / "run.lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(SwerlError, match=rf"SWERL-R006 .*pid {holder.pid} on "), hold(path):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with hold(path):
        assert f'"pid":{os.getpid()}' in path.read_text()


def test_a_child_does_not_inherit_the_lock(tmp_path):
    path = tmp_path / "run.lock"
    with hold(path):
        child = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE, close_fds=False)
    try:
        with hold(path):
            pass
    finally:
        child.communicate(b"\n")
