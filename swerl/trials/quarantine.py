"""Tasks and hosts that only fail are set aside, and listed with the first thing that went wrong.

A task, by the hash of its content, is set aside after four attempts none of which was graded: its trials settle at once as `env_failed`. A
host (a node of a cluster) is set aside after four attempts in a row on it failed by the infrastructure, of at least two tasks, while
another host does its work: new sandboxes stay away from it. A single host is never set aside: when everything fails on it, that is the
breaker's case.

What is set aside is in the journal, so that the next runner of the run keeps it. A task gets there once another one has worked since its
first failure: what failed with everything else is tried again by the next runner. It comes back with other content, or with a start of the
run by its user under ``retry_tasks``; a host with any start by the user (``run_attempt`` counts those; a runner that died starts none).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from swerl.record.events import EventLog
from swerl.record.model import SetAside, TrialResult
from swerl.record.outcomes import MEANING
from swerl.record.trial_journal import Journal

AFTER = 4


@dataclass(slots=True)
class _Book:
    """Failures in a row, whose they were, and what the first one said. ``good``: something on it has ever worked. ``worked`` is how many
    attempts had worked anywhere before the first failure."""

    failures: int = 0
    subjects: set[str] = field(default_factory=set)
    first: str = ""
    good: bool = False
    worked: int = 0

    def failed(self, subject: str, error: str, worked: int = 0) -> None:
        if not self.failures:
            self.worked = worked
        self.failures += 1
        self.subjects.add(subject)
        self.first = self.first or error


class Quarantine:
    def __init__(self, journal: Journal, events: EventLog, run_attempt: int = 1, retry_tasks: bool = False):
        self._journal, self._events, self._run_attempt = journal, events, run_attempt
        self._tasks = {task: _Book(good=True) for task in _worked(journal.settled.values())}
        self._hosts: dict[str, _Book] = {}
        self._aside: dict[str, SetAside] = {}  # tasks, by hash
        self._unwritten: set[str] = set()  # of these: not in the journal, since nothing else has worked yet
        self._inherited: set[str] = set()  # of these: from an earlier runner
        self._worked = 0
        self.hosts: dict[str, str] = {}  # set aside -> the first failure
        for entry in list(journal.set_aside.values()):
            if entry.run_attempt < run_attempt and (entry.what == "host" or retry_tasks):
                self._release(entry, "the run was started again")
            elif entry.what == "host":
                self.hosts[entry.key] = entry.error
            else:
                self._aside[entry.key] = entry
                self._inherited.add(entry.key)

    def asked(self, task: str, name: str) -> None:
        """A trial of the task of that hash and id is asked for. One of that id with other content, set aside earlier, was mended."""
        for other in [key for key in self._inherited if key != task and self._aside[key].name == name]:
            self._release(self._aside.pop(other), "its content has changed")
            self._inherited.discard(other)

    def good(self, task: str, host: str | None) -> None:
        """An attempt ended by itself, whatever its reward."""
        self._tasks[task] = _Book(good=True)
        self._worked += 1
        if host is not None:
            self._hosts[host] = _Book(good=True)
        if task in self._aside:  # it was under way when the others failed
            self._release(self._aside.pop(task), "an attempt of it has worked")
            self._unwritten.discard(task)
            self._inherited.discard(task)
        for other in self._unwritten:
            self._journal.put_aside(self._aside[other])
        self._unwritten.clear()

    def failed(self, task: str, name: str, host: str | None, error: str) -> None:
        book = self._tasks.setdefault(task, _Book())
        if not book.good and task not in self._aside:
            book.failed(task, error, self._worked)
            if book.failures == AFTER:
                self._set_aside(task, name, book)
        if host is not None and host not in self.hosts:
            where = self._hosts.setdefault(host, _Book())
            where.failed(task, error)
            others_work = any(other.good and other.failures < AFTER for at, other in self._hosts.items() if at != host)
            if where.failures >= AFTER and len(where.subjects) > 1 and others_work:
                self.hosts[host] = where.first
                self._events.emit("host.quarantined", host=host, attempts=where.failures, error=where.first)
                self._journal.put_aside(SetAside("host", host, host, where.first, self._run_attempt))

    def holds(self, task: str) -> bool:
        return task in self._aside

    def why(self, task: str) -> str:
        """The first failure of a task that is set aside."""
        return self._aside[task].error

    @property
    def tasks(self) -> dict[str, str]:
        """Id of what is set aside -> the first failure."""
        return {entry.name: entry.error for entry in sorted(self._aside.values(), key=lambda entry: entry.name)}

    def _set_aside(self, task: str, name: str, book: _Book) -> None:
        self._aside[task] = SetAside("task", task, name, book.first, self._run_attempt)
        self._events.emit("task.quarantined", task=name, task_hash=task, attempts=AFTER, error=book.first)
        if self._worked > book.worked:
            self._journal.put_aside(self._aside[task])
        else:
            self._unwritten.add(task)

    def _release(self, entry: SetAside, why: str) -> None:
        self._journal.take_back(entry)
        more = {"task_hash": entry.key} if entry.what == "task" else {}
        self._events.emit(f"{entry.what}.released", **{entry.what: entry.name}, **more, why=why)


def _worked(settled: Iterable[TrialResult]) -> set[str]:
    """Hashes of the tasks of which an attempt has ended by itself."""
    return {r.identity.task_hash for r in settled if MEANING[r.outcome].against not in ("infrastructure", "tail")}
