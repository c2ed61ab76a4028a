"""Counts what is compiled at run time in this process: flash-attn-4's kernels (CuTe), Triton's, and torch.compile's graphs.

A step that compiles is slow for a reason that no profile of the device shows, and one that compiles after the first steps will go on: a
key changes that should not. Hooks: ``torch._dynamo.callback``, ``triton.knobs.compilation.listener`` and the class of
``cutlass.cute.compile``.
"""

from __future__ import annotations

import functools
import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Any


@dataclass(frozen=True, slots=True)
class Compiled:
    """Since this process listens. ``seconds`` of wall clock; kernels that a graph of torch.compile needs are counted, their time is the
    graph's."""

    count: int
    seconds: float


class Counter:
    def __init__(self) -> None:
        self._lock = Lock()
        self._count, self._seconds = 0, 0.0
        self._graph_since: float | None = None

    def add(self, seconds: float) -> None:
        with self._lock:
            self._count += 1
            self._seconds += seconds if self._graph_since is None else 0.0

    def graph_begins(self, _: Any = None) -> None:
        with self._lock:
            self._graph_since = time.monotonic()

    def graph_ends(self, _: Any = None) -> None:
        with self._lock:
            since, self._graph_since = self._graph_since, None
            if since is not None:
                self._count += 1
                self._seconds += time.monotonic() - since

    def total(self) -> Compiled:
        with self._lock:
            return Compiled(self._count, self._seconds)

    def timed(self, compile_: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(compile_)
        def counted(*args: Any, **kwargs: Any) -> Any:
            began = time.monotonic()
            try:
                return compile_(*args, **kwargs)
            finally:
                self.add(time.monotonic() - began)

        return counted


_counter: Counter | None = None


def counter() -> Counter:
    """This process's, listening from the first call on."""
    global _counter
    if _counter is None:
        _counter = Counter()
        _listen(_counter)
    return _counter


def _listen(to: Counter) -> None:
    from torch._dynamo.callback import callback_handler

    callback_handler.register_start_callback(to.graph_begins)
    callback_handler.register_end_callback(to.graph_ends)
    if importlib.util.find_spec("triton") is not None:
        from triton import knobs

        before = knobs.compilation.listener

        def kernel(*, cache_hit: bool, times: Any, **rest: Any) -> None:
            if not cache_hit:
                to.add(times.total / 1e6)
            if before is not None:
                before(cache_hit=cache_hit, times=times, **rest)

        knobs.compilation.listener = kernel
    if importlib.util.find_spec("flash_attn") is not None:
        from cutlass import cute

        compiler = type(cute.compile)
        compiler.__call__ = to.timed(compiler.__call__)  # every caller's, with options or without
