"""A status that stays on the screen: looked at again and again until the run is over or the reader has seen enough."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TextIO

from swerl.record.states import LIVE
from swerl.runs.status import RunStatus, one_screen

SHARE = 0.1  # of a processor at most: a long run's files take longer to read, and are looked at less often


def watch(
    look: Callable[[], RunStatus], show: Callable[[str], None], every_s: float, sleep: Callable[[float], None] = time.sleep
) -> RunStatus:
    """Show every look until one finds the run ended; that one is returned."""
    while True:
        began = time.process_time()
        found = look()
        show(one_screen(found))
        if found.run.state not in LIVE:
            return found
        sleep(max(every_s, (time.process_time() - began) / SHARE))


def screen(stream: TextIO | None = None) -> tuple[AbstractContextManager[object], Callable[[str], None]]:
    """A context and the way to show a text in it: in place on a terminal, else one text after the other where it changed."""
    stream = stream or sys.stdout
    if stream.isatty():
        from rich.live import Live
        from rich.text import Text

        live = Live(auto_refresh=False)
        return live, lambda text: live.update(Text(text), refresh=True)
    last = [""]

    out = stream

    def show(text: str) -> None:
        if text != last[0]:
            out.write(text + "\n\n")
            out.flush()
            last[0] = text

    return nullcontext(), show
