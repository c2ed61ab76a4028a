"""Whoever starts a program learns how it ended: the supervisor, and its other threads, each of their own."""

import subprocess
import sys
import threading
import time

from swerl.runs.children import Children
from swerl.runs.plan import ProcessSpec
from swerl.watch.notify import Notifier


def until(true, within_s=30.0):
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_supervisor_takes_no_status_from_its_threads(tmp_path):
    """A notify command that fails, a program in a session of its own, and one whose pipe outlives it, while the supervisor reaps."""
    mine, reports, found, over = Children({}), [], [], threading.Event()
    notifier = Notifier(command=("/bin/false",))
    threads = [notifier.tell("t", {}, "stop", lambda kind, **fields: reports.append(kind)) for _ in range(40)]
    for command in (["setsid", "sh", "-c", "exit 7"], ["sh", "-c", "sleep 1 & exit 7"]):
        run = lambda command=command: found.append(subprocess.run(command, stdout=subprocess.PIPE).returncode)  # noqa: E731
        threads.append(threading.Thread(target=run))
        threads[-1].start()
    ours = mine.start(ProcessSpec("one", (sys.executable, "-S", "-c", "raise SystemExit(5)"), tmp_path / "log"))
    ended = []

    def wait():
        for thread in threads:
            thread.join()
        over.set()

    threading.Thread(target=wait).start()
    until(lambda: ended.extend(mine.reap()) or (over.is_set() and ended))
    assert len(reports) == 40 and found == [7, 7]
    assert [(child, child.status) for child in ended] == [(ours, 5)]


def test_orphans_are_collected_once_nobody_can_be_waiting_for_them(tmp_path):
    code = (
        "from swerl.runs.children import *; from swerl.runs.plan import ProcessSpec; from swerl.record.process import look;"
        "import sys, time; from pathlib import Path; adopt_orphans(); mine = Children({});"
        "spec = ProcessSpec('one', ('sh', '-c', 'sh -c \\'echo $$; sleep 0.2\\' & exit 0'), Path(sys.argv[1]));"
        "import swerl.runs.children as c; c._LOOK_S, c.ORPHAN_S = 0.0, 1.0; mine.start(spec);"
        "seen = [];"
        "end = time.monotonic() + 4\n"
        "while time.monotonic() < end:\n"
        "    mine.reap(); time.sleep(0.02); text = Path(sys.argv[1]).read_text().split()\n"
        "    found = look(int(text[0])) if text else None\n"
        "    seen.append('-' if not text else 'gone' if found is None else found.state)\n"
        "print(*dict.fromkeys(seen))"
    )
    told = subprocess.run([sys.executable, "-c", code, tmp_path / "log"], capture_output=True, text=True)
    assert told.stdout.split()[-2:] == ["Z", "gone"], told
