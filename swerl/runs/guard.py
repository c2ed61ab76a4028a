"""The supervisor's ear for the watchdog: feeds it, says what it finds, and tells whoever wants to be told.

Events: ``alarm.raised`` with the alarm's fields, ``alarm.cleared`` with its id, ``sample`` (see ``swerl.watch.sample``), ``notify.failed``.
Without terms in the plan nobody watches, and notifications of the run's end still go out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from threading import Event, Thread
from typing import Any

from swerl.record.events import EventLog
from swerl.record.metrics import read_metrics
from swerl.record.rundir import RunDir, write_json
from swerl.runs.plan import Plan
from swerl.runs.stop import StopRequest, read_request
from swerl.watch import Alarm, Watchdog
from swerl.watch.alarm import Action
from swerl.watch.notify import TELL_S
from swerl.watch.sample import Sampler

LOOK_S = 1.0
FOLLOWS: Mapping[Action, str] = {"note": "the run goes on", "pause": "the run ends after this step, saved", "stop": "the run ends now"}


class Guard:
    """``pausing`` is the alarm that asked for the run's orderly end, if one did."""

    def __init__(self, run: RunDir, plan: Plan, events: EventLog, line: Callable[[str], None]):
        self._run, self._events, self._line, self._notifier = run, events, line, plan.notifier
        self.pausing: Alarm | None = None
        self._telling: list[Thread] = []
        self._ends = Event()
        self._looked = 0.0
        self._watchdog: Watchdog | None = None
        if plan.terms is not None:
            self._watchdog = Watchdog(plan.terms, [(row.step, row.data) for row in read_metrics(run.metrics)])
            self._sampler = Sampler(run, plan.terms, events.emit)

    def listen(self, events: Any, rows: Any) -> None:
        if self._watchdog is not None:
            self._watchdog.take(events, rows)

    def attend(self) -> Alarm | None:
        """Look, about once a second; the alarm that ends the run now, if there is one. One that pauses leaves a stop request."""
        if self._watchdog is None or time.monotonic() - self._looked < LOOK_S:
            return None
        self._looked = time.monotonic()
        self._sampler.tick(self._looked)
        return self.look()

    def look(self) -> Alarm | None:
        if self._watchdog is None:
            return None
        new = self._watchdog.look(time.time())
        for alarm in new:
            self._events.emit("alarm.raised", durable=True, **alarm.as_fields())
            self._line(f"alarm, {FOLLOWS[alarm.action]}: {alarm}. Do: {alarm.remedy}")
            self.tell(f"{self._run.id}: {alarm}", alarm.as_fields(), alarm.action)
        while self._watchdog.cleared:
            self._events.emit("alarm.cleared", durable=True, id=self._watchdog.cleared.pop(0))
        for alarm in new:
            if alarm.action == "pause" and self.pausing is None:
                self.pausing = alarm
                if read_request(self._run.stop_request) is None:
                    write_json(self._run.stop_request, asdict(StopRequest("drain")))
        return next((alarm for alarm in new if alarm.action == "stop"), None)

    def tell(self, title: str, body: Mapping[str, Any], action: Action) -> None:
        thread = self._notifier.tell(title, {"run": self._run.id, **body}, action, self._events.emit, self._ends)
        if thread is not None:
            self._telling.append(thread)

    def close(self) -> None:
        """Wait until what is being told has been told, within its time limit; what nobody heard before is told a last time."""
        self._ends.set()
        for thread in self._telling:
            thread.join(TELL_S)
