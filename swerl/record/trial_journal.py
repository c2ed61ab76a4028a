"""`trials/journal.jsonl`: what was started and what came of it, one JSON object a line. One writer; every line is on disk before it counts.

Kinds: ``attempt`` (identity, attempt number, trial name: written before the attempt begins, so that a restart gives the next attempt a new
name and session), ``settled`` (a TrialResult), ``set_aside`` and ``taken_back`` (a SetAside: what the runner gave up, and what it tries
again). A line that a killed writer tore is skipped by readers and closed off by the next writer. A trial whose outcome the infrastructure
or a cancellation decided is recorded too, and run again when it is asked for by a later start; so is a final one of a group that taught
nothing, when its trainer asks for it anew. So the last ``settled`` line of an identity counts.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from swerl.errors import fail
from swerl.record.ledger import Ledger, objects
from swerl.record.model import Identity, SetAside, TrialResult
from swerl.record.outcomes import MEANING, Outcome


class Journal:
    """Opens for writing and reads what is there. SWERL-T002 when another process has it open for writing."""

    def __init__(self, path: Path):
        self.path = path
        self.settled: dict[str, TrialResult] = {}
        self.attempts: dict[str, int] = {}
        self.set_aside: dict[tuple[str, str], SetAside] = {}  # by what and key
        self._lock = _locked(path)
        self._ledger = Ledger(path)
        for line in read(path):
            if line.get("kind") == "attempt":
                key = Identity(**line["identity"]).key
                self.attempts[key] = max(self.attempts.get(key, 0), line["attempt"])
            elif line.get("kind") == "settled":
                result = TrialResult.from_dict(line["result"])
                self._count(result)
            elif line.get("kind") == "set_aside":
                entry = SetAside(**line["entry"])
                self.set_aside[entry.what, entry.key] = entry
            elif line.get("kind") == "taken_back":
                self.set_aside.pop((line["what"], line["key"]), None)

    def begin(self, identity: Identity, trial_name_of: Callable[[int], str]) -> tuple[int, str]:
        """Record the next attempt; its number (from 1, over all restarts) and the name that ``trial_name_of(number)`` gives it."""
        number = self.attempts.get(identity.key, 0) + 1
        name = trial_name_of(number)
        self._write({"kind": "attempt", "identity": _plain(identity), "attempt": number, "trial_name": name})
        self.attempts[identity.key] = number
        return number, name

    def settle(self, result: TrialResult) -> None:
        self._write({"kind": "settled", "result": result.as_dict()})
        self._count(result)

    def _count(self, result: TrialResult) -> None:
        """Answers those who ask again, as far as it is final."""
        if is_final(result):
            self.settled[result.identity.key] = result
        else:
            self.settled.pop(result.identity.key, None)

    def put_aside(self, entry: SetAside) -> None:
        self._write({"kind": "set_aside", "entry": asdict(entry)})
        self.set_aside[entry.what, entry.key] = entry

    def take_back(self, entry: SetAside) -> None:
        """Nothing for what is not in the journal."""
        if (entry.what, entry.key) in self.set_aside:
            self._write({"kind": "taken_back", "what": entry.what, "key": entry.key})
            del self.set_aside[entry.what, entry.key]

    def close(self) -> None:
        self._ledger.close()
        os.close(self._lock)

    def _write(self, line: dict[str, Any]) -> None:
        """On disk when this returns; raises OSError with the file as it was, and then nothing has been said."""
        self._ledger.append(line, sync=True)


def _locked(path: Path) -> int:
    """The right to write the file, held as long as the descriptor is open."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        raise fail("SWERL-T002", "another runner writes this journal", "stop it first; a run has one runner", str(path)) from error
    return fd


def is_final(result: TrialResult) -> bool:
    meaning = MEANING[result.outcome]
    return not meaning.retried and result.outcome is not Outcome.CANCELLED


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Whole lines of a journal, oldest first; torn ones are skipped. Safe while a runner writes."""
    return objects(path)


def _plain(identity: Identity) -> dict[str, Any]:
    return {"split": identity.split, "task_hash": identity.task_hash, "sample": identity.sample, "version": identity.version}
