"""The five writers of append-only files, each as one function; run as a program it meets a disk that fills inside a line.

``python writers.py NAME FOLDER``: line 1 is written, half of line 2 fits, line 3 is written when there is room again. Prints the error.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson

Write = Callable[[int], None]


def events(path: Path) -> Write:
    from swerl.record.events import EventLog

    log = EventLog(path, "test")
    return lambda n: log.emit("told", n=n)


def metrics(path: Path) -> Write:
    from swerl.record.metrics import MetricsLog

    log = MetricsLog(path)
    return lambda n: log.append(n, "L1", {"n": n})


def trials(path: Path) -> Write:
    from swerl.record.model import Identity, TrialResult
    from swerl.record.outcomes import Outcome
    from swerl.record.trial_journal import Journal

    journal = Journal(path)
    return lambda n: journal.settle(TrialResult(Identity("train", "h" * 64, n, "L1:1"), f"t{n}", Outcome.COMPLETED, True, True, 1.0))


def session(path: Path) -> Write:
    from swerl.record.session_journal import Journal, OpenFiles

    journal = Journal(path, ThreadPoolExecutor(1), OpenFiles())
    return lambda n: journal.write({"k": "mark", "n": n})


def upstream(path: Path) -> Write:
    from swerl.evaluate.upstream import UpstreamSession

    server: Any = SimpleNamespace()
    one = UpstreamSession("s", {}, {}, 0, None, server, path)
    return lambda n: one.write({"k": "turn", "n": n})


WRITERS: dict[str, Callable[[Path], Write]] = {f.__name__: f for f in (events, metrics, trials, session, upstream)}


def number_of(line: dict[str, Any]) -> int:
    """Which of the calls wrote this line."""
    result = line.get("result")
    return result["identity"]["sample"] if result else line["step"] if "step" in line else line["n"]


def main(name: str, path: Path) -> None:
    write = WRITERS[name](path)
    write(1)
    size = path.stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + size // 2, resource.RLIM_INFINITY))
    try:
        write(2)
        said = "nothing"
    except OSError as error:
        said = type(error).__name__
    torn = path.read_bytes()[size:]
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    write(3)
    found = [number_of(orjson.loads(line)) for line in path.read_bytes().splitlines()]
    print(orjson.dumps({"said": said, "torn": len(torn), "found": found}).decode())


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
