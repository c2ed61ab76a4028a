"""The states of a run, and which may follow which.

::

    prepared -> running -> completed
                        -> failed
                        -> stopping -> completed | failed | interrupted
                        -> interrupted

``running`` and ``stopping`` are claims of a living supervisor. When that supervisor is gone, the run *is* interrupted, whatever the row
says; ``effective`` is the one place that knows this. Every ended state may run again (``running``): that is what resume means.
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    PREPARED = "prepared"
    RUNNING = "running"
    STOPPING = "stopping"
    COMPLETED = "completed"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


LIVE = frozenset({State.RUNNING, State.STOPPING})
ENDED = frozenset({State.COMPLETED, State.FAILED, State.INTERRUPTED})

NEXT: dict[State, frozenset[State]] = {
    State.PREPARED: frozenset({State.PREPARED, State.RUNNING, State.INTERRUPTED, State.FAILED}),
    State.RUNNING: frozenset({State.STOPPING, State.COMPLETED, State.FAILED, State.INTERRUPTED}),
    State.STOPPING: frozenset({State.COMPLETED, State.FAILED, State.INTERRUPTED}),
    State.COMPLETED: frozenset({State.PREPARED, State.RUNNING}),
    State.FAILED: frozenset({State.PREPARED, State.RUNNING}),
    State.INTERRUPTED: frozenset({State.PREPARED, State.RUNNING}),
}


def effective(recorded: State, supervisor_alive: bool) -> State:
    """What the run is, given what its row says and whether the supervisor named there lives."""
    return State.INTERRUPTED if recorded in LIVE and not supervisor_alive else recorded
