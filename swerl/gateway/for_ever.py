"""Work that a service does again and again beside its requests."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable


async def for_ever(every_s: float, work: Callable[[], Awaitable[None]]) -> None:
    """``work`` every ``every_s`` seconds, until cancelled. What it raises is printed, which needs no room on any disk of the run, and ends
    nothing: a full disk has room again some time."""
    while True:
        await asyncio.sleep(every_s)
        try:
            await work()
        except Exception as error:  # any: the next round may do better, and a round that never comes does worse
            print(f"{work.__qualname__}: {type(error).__name__}: {error}; it is tried again in {every_s:g} s", file=sys.stderr, flush=True)
