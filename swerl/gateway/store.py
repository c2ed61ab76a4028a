"""All sessions of a run: opened by the admin surface, found by key, read back from disk when this process does not have them.

A session's id is a hash of its key. Nobody can go from id to key, and a key finds its journal without any table.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from swerl.gateway.errors import ApiError
from swerl.gateway.history import Histories
from swerl.gateway.records import read_tree
from swerl.gateway.session import Parts, Session
from swerl.record.session_journal import Journal, OpenFiles, inherit, journal_path

_ID = re.compile(r"[0-9a-f]{32}")
_CLOSED_IN_MEMORY = 64
_KEY_BYTES = 32


def session_id(key: str) -> str:
    return sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:32]


class SessionStore:
    def __init__(self, parts: Parts):
        self.parts = parts
        self.directory = parts.settings.journal_dir / "sessions"
        self.directory.mkdir(parents=True, exist_ok=True)
        self._files = OpenFiles()
        self._live: dict[str, Session] = {}
        self._closed: OrderedDict[str, Session] = OrderedDict()
        self._reading: dict[str, asyncio.Future[Session | None]] = {}
        self._suspended = False

    async def open(
        self, trial: Mapping[str, Any], sampling: Mapping[str, Any], seed: int | None, max_turns: int | None
    ) -> tuple[Session, str]:
        """A new session and its key, which is kept nowhere. Without a seed, the key decides. Raises ApiError 429 when too many are open,
        503 when its journal cannot be made."""
        if len(self._live) >= self.parts.settings.max_sessions:
            raise ApiError(429, "too_many_sessions", f"{len(self._live)} sessions are open", retry=True)
        key = secrets.token_urlsafe(_KEY_BYTES)
        id = session_id(key)
        seed = int(sha256(b"seed" + key.encode()).hexdigest()[:8], 16) if seed is None else seed
        session = self._live[id] = self._made(id, trial, sampling, seed, max_turns)
        described = {"session": id, "trial": trial, "sampling": sampling, "seed": seed, "max_turns": max_turns}
        try:
            await session.journal.begin({"k": "open", **described, "time": time.time()})
        except OSError as error:
            del self._live[id]
            self.parts.metrics.journal_errors += 1
            raise ApiError(503, "journal_unwritable", f"The session cannot be stored: {error.strerror}.", retry=True) from error
        return session, key

    async def by_key(self, key: str) -> Session:
        """Raises ApiError 401 for a key that opens nothing (any more)."""
        session = await self.by_id(session_id(key)) if key else None
        if session is None or session.closed is not None:
            raise ApiError(401, "invalid_api_key", "No open session has this key.")
        return session

    async def by_id(self, id: str) -> Session | None:
        if (session := self._live.get(id) or self._closed.get(id)) is not None:
            return session
        if _ID.fullmatch(id) is None or not journal_path(self.directory, id).exists():
            return None
        if (reading := self._reading.get(id)) is None:
            reading = self._reading[id] = asyncio.ensure_future(self._read(id))
            reading.add_done_callback(lambda _: self._reading.pop(id, None))
        return await asyncio.shield(reading)

    async def close(self, session: Session, reason: str) -> dict[str, Any]:
        report = await session.close(reason)
        self._live.pop(session.id, None)
        self._keep_closed(session)
        session.journal.close()
        return report

    def forget_idle(self, idle_s: float) -> int:
        """Drop open sessions that nobody has used for ``idle_s`` from memory; the next request reads them back. Returns how many. One
        whose journal cannot be written stays until the next time."""
        before = time.monotonic() - idle_s
        idle = [s for s in self._live.values() if (since := s.idle_since()) is not None and since < before]
        gone = 0
        for session in idle:
            try:
                session.journal.write({"k": "hold", "hold_s": round(session.hold.total_s, 3)})
            except OSError:
                self.parts.metrics.journal_errors += 1
                continue
            session.journal.close()
            del self._live[session.id]
            gone += 1
        return gone

    async def suspend(self) -> None:
        """End of the process: stop sampling without closing any session; the next process serves them on."""
        self._suspended = True
        await asyncio.gather(*(session.suspend() for session in self._live.values()))
        self._files.close_all()

    async def _read(self, id: str) -> Session | None:
        path = journal_path(self.directory, id)
        records = await asyncio.get_running_loop().run_in_executor(self.parts.executor, lambda: inherit(path))
        if not records:  # the machine crashed before the first turn was on disk
            return None
        first, rest = records[0], records[1:]
        session = self._made(id, first["trial"], first["sampling"], first["seed"], first["max_turns"])
        session.tree = read_tree(rest)
        session.recall(rest)
        if session.closed is None:
            self._live[id] = session
        else:
            self._keep_closed(session)
        return session

    def _made(self, id: str, trial: Mapping[str, Any], sampling: Mapping[str, Any], seed: int, max_turns: int | None) -> Session:
        journal = Journal(journal_path(self.directory, id), self.parts.executor, self._files)
        histories = Histories(self.parts.tool_sets)
        return Session(id, trial, sampling, seed, max_turns, journal, self.parts, histories=histories, suspended=self._suspended)

    def _keep_closed(self, session: Session) -> None:
        self._closed[session.id] = session
        self._closed.move_to_end(session.id)
        while len(self._closed) > _CLOSED_IN_MEMORY:
            self._closed.popitem(last=False)

    def live(self) -> list[Session]:
        return list(self._live.values())
