"""What the gateway wants of its process: many open files, and no long pauses of the garbage collector."""

from __future__ import annotations

import gc
import resource


def raise_open_files() -> int:
    """A waiting agent is an open connection, and thousands may wait: use as many descriptors as the system allows. Returns how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def settle_memory() -> None:
    """Take what is loaded by now (torch, vLLM: millions of objects that stay) out of the garbage collector's sight; with it in sight, a
    full collection stops the event loop for half a second."""
    gc.collect()
    gc.freeze()
