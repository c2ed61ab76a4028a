"""The runner's end of a sandbox's socket: request and answer by id, output streamed as it comes. See `inside` for the frames.

`Channel` belongs to one event loop. Every method raises `SandboxDied` when the sandbox ends first and `SandboxRefused` when process 1
answers with a failure or, to anything but a command, not at all within `ANSWER_S`. Cancelling `run` kills the command's process group
inside before the cancellation goes on. Files are read and written in threads.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from swerl.trials.sandboxes import tree
from swerl.trials.sandboxes.received import Bounds, Received

_HEAD = struct.Struct("<IIc")
_MAX_FRAME = 1 << 24
_BATCH = 1 << 18  # of what comes out, between two visits to the disk
ANSWER_S = 120.0
Output = Callable[[bytes, str], Awaitable[None]]


class SandboxDied(RuntimeError):
    """Process 1 is gone: killed with its runner, by the memory limit, or by a stop."""


class SandboxRefused(RuntimeError):
    """Process 1 could not do what was asked; the message says why in the sandbox's own words (untrusted text)."""


@dataclass(frozen=True, slots=True)
class Finished:
    """One ended command. ``code`` is the exit code, or 128 + signal; output is what was kept of each stream."""

    code: int
    stdout: bytes
    stderr: bytes
    timed_out: bool
    truncated: bool


class _Pending:
    """What one request has received so far."""

    __slots__ = ("data", "done", "output", "stderr", "stdout", "unpacker")

    def __init__(self, done: asyncio.Future[bytes], output: Output | None = None, unpacker: tree.Unpacker | None = None):
        self.done, self.output, self.unpacker = done, output, unpacker
        self.stdout, self.stderr, self.data = bytearray(), bytearray(), bytearray()


class Channel:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self._reader, self._writer = reader, writer
        self._loop = asyncio.get_running_loop()
        self._pending: dict[int, _Pending] = {}
        self._next = 1
        self.ready: asyncio.Future[bytes] = self._loop.create_future()
        self._pending[0] = _Pending(self.ready)
        self._task = self._loop.create_task(self._read(), name="sandbox-channel")

    @classmethod
    async def over(cls, sock: socket.socket) -> Channel:
        reader, writer = await asyncio.open_connection(sock=sock, limit=1 << 20)
        return cls(reader, writer)

    @property
    def alive(self) -> bool:
        return not self._task.done()

    async def run(
        self, command: str, cwd: str, env: Mapping[str, str], timeout_s: float | None, kept_bytes: int, output: Output | None = None
    ) -> Finished:
        timeout_ms = max(1, int(timeout_s * 1000)) if timeout_s else 0
        fields = [cwd, str(timeout_ms), str(kept_bytes), command, *(f"{key}={value}" for key, value in env.items())]
        if any("\0" in field for field in fields):
            raise ValueError("a command, directory or variable holds a NUL byte")
        ident, pending = self._open(output=output)
        self._send(ident, b"X", "\0".join(fields).encode(errors="surrogateescape"))
        try:
            code, timed_out, truncated = (int(field) for field in (await pending.done).split(b"\0"))
        except asyncio.CancelledError:
            if self.alive:
                self._send(ident, b"K")
            raise
        finally:
            self._pending.pop(ident, None)
        return Finished(code if code >= 0 else 128 - code, bytes(pending.stdout), bytes(pending.stderr), bool(timed_out), bool(truncated))

    async def upload(self, source: Path, target: str, links: Iterable[tuple[str, str]] = ()) -> None:
        """``source`` to ``target``, and below it ``links`` (name, target)."""
        ident, pending = self._open()
        try:
            self._send(ident, b"U", ("d" if source.is_dir() else "f").encode() + b"\0" + target.encode(errors="surrogateescape"))
            pieces = tree.pack(source, links)
            while (batch := await asyncio.to_thread(_batch, pieces)) and not pending.done.done():
                self._send(ident, b"D", batch)
                await self._writer.drain()
            self._send(ident, b"E")
            await self._answer(pending)
        finally:
            self._pending.pop(ident, None)

    async def download(self, source: str, target: Path, single: bool, bounds: Bounds) -> Received:
        """One file, or a directory of which what is over a bound is left out. UnsafeEntry when the sandbox offers something that would
        leave ``target``; nothing is written through it."""
        return await self._receive(b"f" if single else b"d", source, tree.Unpacker(target, single, bounds, cut=not single), bounds)

    async def changes(self, directory: str, target: Path, bounds: Bounds) -> Received:
        """What differs from the baseline of ``directory``: new and changed entries below ``target``, the rest as names. SandboxRefused or
        UnsafeEntry when that is over a bound."""
        return await self._receive(b"c", directory, tree.Unpacker(target, False, bounds), bounds)

    async def _receive(self, kind: bytes, source: str, unpacker: tree.Unpacker, bounds: Bounds) -> Received:
        ident, pending = self._open(unpacker=unpacker)
        limits = (str(limit).encode() for limit in (bounds.total_bytes, bounds.file_bytes, bounds.depth))
        self._send(ident, b"G", b"\0".join((kind, source.encode(errors="surrogateescape"), *limits)))
        try:
            await self._answer(pending)
            return await asyncio.to_thread(_finish, unpacker, pending.data)
        except BaseException:
            unpacker.abort()
            raise
        finally:
            self._pending.pop(ident, None)

    async def _answer(self, pending: _Pending) -> bytes:
        try:
            return await asyncio.wait_for(pending.done, ANSWER_S)
        except TimeoutError as error:
            raise SandboxRefused(f"no answer within {ANSWER_S:.0f} s") from error

    async def quiesce(self) -> list[str]:
        """End every process but the first; the command lines of those that were alive."""
        answer = await self._ask(b"Q")
        return [line.decode(errors="replace") for line in answer.split(b"\0") if line]

    async def wipe(self, *paths: str) -> None:
        await self._ask(b"W", "\0".join(paths).encode())

    async def make_dirs(self, *paths: str) -> None:
        await self._ask(b"N", "\0".join(paths).encode())

    async def remove(self, directory: str, names: Sequence[str]) -> None:
        """Remove ``names`` below ``directory``, following no link; what is not there is fine."""
        if names:
            await self._ask(b"Z", "\0".join((directory, *names)).encode(errors="surrogateescape"))

    async def kind(self, path: str) -> str:
        """ "d" directory, "f" file, "" anything else or nothing; links are followed, inside."""
        return (await self._ask(b"T", path.encode(errors="surrogateescape"))).decode()

    async def harden(self, *, processes: int, file_bytes: int, files: int, data_bytes: int, port: int, door: int) -> None:
        await self._ask(b"I", b"\0".join(str(n).encode() for n in (processes, file_bytes, files, data_bytes, port, door)))

    async def baseline(self, directory: str) -> None:
        """Remember what ``directory`` holds; `changes` sends what differs later."""
        await self._ask(b"B", directory.encode())

    async def close(self) -> None:
        self._writer.close()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _ask(self, kind: bytes, payload: bytes = b"") -> bytes:
        ident, pending = self._open()
        self._send(ident, kind, payload)
        try:
            return await self._answer(pending)
        finally:
            self._pending.pop(ident, None)

    def _open(self, output: Output | None = None, unpacker: tree.Unpacker | None = None) -> tuple[int, _Pending]:
        if not self.alive:
            raise SandboxDied("the sandbox has ended")
        ident = self._next
        self._next += 1
        pending = _Pending(self._loop.create_future(), output, unpacker)
        self._pending[ident] = pending
        return ident, pending

    def _send(self, ident: int, kind: bytes, payload: bytes = b"") -> None:
        self._writer.write(_HEAD.pack(len(payload), ident, kind) + payload)

    async def _read(self) -> None:
        try:
            while True:
                size, ident, kind = _HEAD.unpack(await self._reader.readexactly(_HEAD.size))
                if size > _MAX_FRAME:
                    raise ValueError(f"frame of {size} bytes")
                payload = await self._reader.readexactly(size)
                pending = self._pending.get(ident)
                if pending is not None and not pending.done.done():
                    await self._take(pending, kind, payload)
        except (asyncio.IncompleteReadError, OSError, ValueError, struct.error):
            pass  # told to every waiter below: whatever broke, the sandbox is of no more use
        finally:
            for pending in self._pending.values():
                if not pending.done.done():
                    pending.done.set_exception(SandboxDied("the sandbox has ended"))
                    pending.done.exception()  # it may have no waiter left

    async def _take(self, pending: _Pending, kind: bytes, payload: bytes) -> None:
        if kind in (b"O", b"F"):
            (pending.stdout if kind == b"O" else pending.stderr).extend(payload)
            if pending.output is not None:
                await pending.output(payload, "stdout" if kind == b"O" else "stderr")
        elif kind == b"D" and pending.unpacker is not None:
            pending.data += payload
            if len(pending.data) >= _BATCH:
                data, pending.data = pending.data, bytearray()
                try:
                    await asyncio.to_thread(pending.unpacker.feed, data)
                except (OSError, ValueError) as error:
                    if not pending.done.done():
                        pending.done.set_exception(error)
        elif kind in (b"R", b"C", b"E"):
            pending.done.set_result(payload)
        elif kind == b"!":
            pending.done.set_exception(SandboxRefused(payload.decode(errors="replace")))


def _batch(pieces: Iterator[bytes]) -> bytes:
    """Empty when there is nothing more."""
    batch = bytearray()
    for piece in pieces:
        batch += piece
        if len(batch) >= _BATCH:
            break
    return bytes(batch)


def _finish(unpacker: tree.Unpacker, data: bytes) -> Received:
    unpacker.feed(data)
    return unpacker.close()
