"""One supervisor per run. The kernel holds the lock (``flock``), so it ends with its holder, whatever ends the holder."""

from __future__ import annotations

import fcntl
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import orjson

from swerl.errors import fail

PATIENCE_S = 0.5


@contextmanager
def hold(path: Path) -> Iterator[None]:
    """Hold the lock at ``path`` for the length of the block. Held by another: SWERL-R006 says by whom.

    The file stays when the lock is let go; only the kernel's lock counts, never the file or what it says. It is not inherited by children
    (close-on-exec)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        if not _take(handle):
            raise fail(
                "SWERL-R006",
                f"another supervisor runs this run: {describe_holder(path)}",
                f"watch it with `swerl status {path.parent.name}`, end it with `swerl stop {path.parent.name}`,"
                " or give the new run another experiment.exp_name",
                where=str(path),
            )
        note = {"pid": os.getpid(), "host": platform.node(), "since": time.time(), "command": " ".join(sys.argv)}
        os.ftruncate(handle, 0)
        os.pwrite(handle, orjson.dumps(note) + b"\n", 0)
        yield
    finally:
        os.close(handle)


def _take(handle: int) -> bool:
    """A holder that has just ended can still seem to hold for a moment: a child of its is between fork and exec."""
    give_up = time.monotonic() + PATIENCE_S
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= give_up:
                return False
            time.sleep(0.02)


def describe_holder(path: Path) -> str:
    """Who wrote the lock file last, in words; only worth reading while the lock is held."""
    try:
        note = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return "a process that has just started"
    since = datetime.fromtimestamp(note["since"]).strftime("%Y-%m-%d %H:%M:%S")
    return f"pid {note['pid']} on {note['host']} since {since} ({note['command']})"
