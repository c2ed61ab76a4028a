"""Tasks and hosts that only fail are set aside, and listed with the first thing that went wrong.

A task is set aside after four attempts none of which was graded: its trials settle at once as `env_failed`. A host (a node of a cluster) is
set aside after four attempts in a row on it failed by the infrastructure, of at least two tasks, while another host does its work: new
sandboxes stay away from it. A single host is never set aside: when everything fails on it, that is the breaker's case.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from swerl.runs.events import EventLog

AFTER = 4


@dataclass(slots=True)
class _Book:
    """Failures in a row, whose they were, and what the first one said. ``good``: something on it has ever worked."""

    failures: int = 0
    subjects: set[str] = field(default_factory=set)
    first: str = ""
    good: bool = False

    def failed(self, subject: str, error: str) -> None:
        self.failures += 1
        self.subjects.add(subject)
        self.first = self.first or error


class Quarantine:
    def __init__(self, events: EventLog):
        self._events = events
        self._tasks: dict[str, _Book] = {}
        self._hosts: dict[str, _Book] = {}
        self.hosts: dict[str, str] = {}  # set aside -> the first failure

    def good(self, task: str, host: str | None) -> None:
        """An attempt ended by itself, whatever its reward."""
        self._tasks[task] = _Book(good=True)
        if host is not None:
            self._hosts[host] = _Book(good=True)

    def failed(self, task: str, host: str | None, error: str) -> None:
        book = self._tasks.setdefault(task, _Book())
        if not book.good:
            book.failed(task, error)
            if book.failures == AFTER:
                self._events.emit("task.quarantined", task=task, attempts=AFTER, error=book.first)
        if host is not None and host not in self.hosts:
            where = self._hosts.setdefault(host, _Book())
            where.failed(task, error)
            others_work = any(other.good and other.failures < AFTER for name, other in self._hosts.items() if name != host)
            if where.failures >= AFTER and len(where.subjects) > 1 and others_work:
                self.hosts[host] = where.first
                self._events.emit("host.quarantined", host=host, attempts=where.failures, error=where.first)

    def holds(self, task: str) -> bool:
        book = self._tasks.get(task)
        return book is not None and not book.good and book.failures >= AFTER

    @property
    def tasks(self) -> dict[str, str]:
        """Set aside -> the first failure."""
        return {task: book.first for task, book in sorted(self._tasks.items()) if self.holds(task)}
