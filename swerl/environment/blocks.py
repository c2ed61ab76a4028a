"""Compression on every core: a stream cut into blocks, each an .xz stream of its own, written in order.

Concatenated .xz streams are one .xz file (its format says so), so ``xz -d`` and ``lzma.open`` read the result. The bytes depend on the
input, the block size and the effort, never on the number of workers. The x86 filter rewrites the targets of calls, which makes machine
code smaller and leaves text as it is.
"""

from __future__ import annotations

import io
import lzma
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, BinaryIO

BLOCK_BYTES = 192 * 1024 * 1024
_DICTIONARY_BYTES = 64 * 1024 * 1024


def compress(block: bytes, preset: int) -> bytes:
    window = max(4096, min(_DICTIONARY_BYTES, len(block)))
    filters = [
        {"id": lzma.FILTER_X86},
        {"id": lzma.FILTER_LZMA2, "preset": preset, "dict_size": window},
    ]
    return lzma.compress(block, format=lzma.FORMAT_XZ, check=lzma.CHECK_CRC64, filters=filters)


class BlockWriter(io.RawIOBase):
    """Write-only. ``close`` writes what is left and leaves ``sink`` open. Blocks in memory: one a worker, and the one being filled."""

    def __init__(self, sink: BinaryIO, preset: int = 6, block_bytes: int = BLOCK_BYTES, workers: int | None = None):
        self.sink, self.preset, self.block_bytes = sink, preset, block_bytes
        self.workers = workers or len(os.sched_getaffinity(0))
        self._pool = ThreadPoolExecutor(self.workers)  # lzma releases the interpreter's lock
        self._pending: deque[Future[bytes]] = deque()
        self._block = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._block += data
        while len(self._block) >= self.block_bytes:
            self._submit(bytes(self._block[: self.block_bytes]))
            del self._block[: self.block_bytes]
        return len(data)

    def _submit(self, block: bytes) -> None:
        self._pending.append(self._pool.submit(compress, block, self.preset))
        while len(self._pending) > self.workers:
            self.sink.write(self._pending.popleft().result())

    def close(self) -> None:
        if self.closed:
            return
        try:
            if self._block:
                self._submit(bytes(self._block))
            while self._pending:
                self.sink.write(self._pending.popleft().result())
        finally:
            self._pool.shutdown(cancel_futures=True)
            super().close()
