"""Limits of this process that the gateway needs otherwise than the shell left them."""

from __future__ import annotations

import resource


def raise_open_files() -> int:
    """A waiting agent is an open connection, and thousands may wait: use as many descriptors as the system allows. Returns how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
