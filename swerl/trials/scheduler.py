"""From a request to a settled result: one trial per identity, so many at once, retries for infrastructure only.

Every result is in the journal before anybody hears of it.
`ask` answers from the journal, attaches to a running trial, or starts one; the caller may go away, the trial goes on. Retries wait
``BACKOFF_S * 2**n`` with jitter and run in a fresh sandbox with a fresh session. What is retried, and what a result means, is `outcomes`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from swerl.record.events import EventLog
from swerl.record.model import Identity, Timing, TrialRequest, TrialResult
from swerl.record.outcomes import MEANING, Evidence, Judgement, Outcome, RewardMissing, judge
from swerl.record.trial_journal import Journal
from swerl.trials.attempt import AttemptRunner, Ender
from swerl.trials.breaker import Breaker
from swerl.trials.evidence import Attempt
from swerl.trials.groups import Groups
from swerl.trials.quarantine import Quarantine
from swerl.trials.settings import RunnerSettings
from swerl.trials.tail import TailKiller
from swerl.trials.warm import Ahead, Ready, Warm

BACKOFF_S = 1.0
ENGINE_ASK_S = 1.0


class Stopping(RuntimeError):
    """The runner is being stopped; the trial will be run by its successor."""


class Scheduler:
    def __init__(self, settings: RunnerSettings, journal: Journal, attempts: AttemptRunner, events: EventLog):
        self._settings, self._journal, self._attempts, self._events = settings, journal, attempts, events
        self._slots = asyncio.Semaphore(settings.num_workers)
        self._tasks: dict[str, asyncio.Task[TrialResult]] = {}
        self._enders: dict[str, tuple[Identity, Ender]] = {}
        self._memory: dict[str, tuple[int, TrialResult]] = {}  # what this process settled or was asked for again, and for which epoch
        self._epoch = 0
        self.breaker = Breaker(settings.breaker_failures, settings.retry_budget, settings.step_trials, events)
        self.quarantine = Quarantine(journal, events, settings.run_attempt, settings.retry_quarantined)
        attempts.avoid = self.quarantine.hosts
        self.warm = Warm(settings.warm_pool, events)
        self.tail = TailKiller(settings.tail, settings.step_trials, self._end, events)
        self.groups = Groups(settings.group_size, events)
        self.counts: Counter[str] = Counter()
        self.running = 0
        self._stopping = False

    async def ask(self, request: TrialRequest) -> TrialResult:
        """The settled result. BreakerOpen when the run must stop; Stopping while the runner ends."""
        key = request.identity.key
        self._enter(request)
        known = self._known(request)
        if known is not None:
            if request.identity.split == "train" and key not in self._memory:  # settled before a restart: the step has it done already
                self._memory[key] = (0, known)
                self.tail.asked(request.step, key, request.identity.task_hash)
                self.tail.settled(request.step, key, known)
                self.groups.settled(request.step, known)
            return replace(known, reused=True)
        if key not in self._tasks:
            if self._stopping:
                raise Stopping("the runner is stopping")
            self.breaker.check()
            self._tasks[key] = asyncio.get_running_loop().create_task(self._trial(request), name=f"trial-{request.identity.digest}")
        return await asyncio.shield(self._tasks[key])

    def _enter(self, request: TrialRequest) -> None:
        """A later start of the trainer asks: what still runs under weights that it does not have is nobody's any more."""
        if request.epoch <= self._epoch:
            return
        self._epoch = request.epoch
        for key, (who, _) in list(self._enders.items()):
            if who.version != request.identity.version:
                self._end(key, Outcome.CANCELLED)

    def _known(self, request: TrialRequest) -> TrialResult | None:
        """The result that answers the request. One that is not final answers the start it was settled for, and no later one."""
        key = request.identity.key
        epoch, result = self._memory.get(key, (0, None))
        if result is not None and epoch >= request.epoch:
            return result
        return None if request.anew else self._journal.settled.get(key)

    def cancel(self, version: str | None = None, identity: Identity | None = None) -> int:
        """End unfinished trials of a version, or one; how many there were."""
        chosen = [key for key, (who, _) in self._enders.items() if who.version == version or who == identity]
        for key in chosen:
            self._end(key, Outcome.CANCELLED)
        return len(chosen)

    async def stop(self) -> None:
        """End everything that runs; nothing that is ended here is recorded as settled."""
        self._stopping = True
        self.tail.close()
        for key in list(self._enders):
            self._end(key, Outcome.CANCELLED)
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def stats(self) -> dict[str, Any]:
        problem = self.breaker.problem
        return {
            "running": self.running,
            "queued": len(self._tasks) - self.running,
            "settled": dict(self.counts),
            "journal": len(self._journal.settled),
            "groups": dict(self.groups.counts),
            "warm": self.warm.stats(),
            "quarantined": self.quarantine.tasks,
            "quarantined_hosts": dict(self.quarantine.hosts),
            "breaker": None if problem is None else problem.as_dict(),
        }

    def _end(self, key: str, by: Outcome) -> None:
        if key in self._enders:
            self._enders[key][1].end(by)

    async def _trial(self, request: TrialRequest) -> TrialResult:
        who, key, step = request.identity, request.identity.key, request.step
        self._enders[key] = (who, ender := Ender())
        self.breaker.asked(who.split, step)
        self.quarantine.asked(who.task_hash, request.task_id)
        if who.split == "train":
            self.tail.asked(step, key, who.task_hash)
        asked = time.monotonic()
        try:
            result = await self._attempts_until_settled(request, ender, asked)
            if self._stopping and result.outcome is Outcome.CANCELLED:
                raise Stopping("the runner is stopping")
            self._journal.settle(result)
            self._memory[key] = (self._epoch, result)
            self.counts[result.outcome.value] += 1
            if who.split == "train":
                self.tail.settled(step, key, result)
                self.groups.settled(step, result)
            self._events.emit("trial.settled", step=step, trial=result.trial_name, **_summary(result))
            return result
        finally:
            self._enders.pop(key, None)
            self._tasks.pop(key, None)

    async def _attempts_until_settled(self, request: TrialRequest, ender: Ender, asked: float) -> TrialResult:
        who, step = request.identity, request.step
        for tries in range(1, self._settings.max_attempts + 1):
            async with self._turn(request, ender) as begun:
                if ender.by is None:
                    self.breaker.check()
                    attempt, name, queue_s = await self._attempt(request, ender, begun, asked)
                else:
                    attempt, name = Attempt(Evidence(ended_by=ender.by), error=f"ended by the runner: {ender.by.value}"), ""
            judgement, attempt = self._judge(attempt)
            result = _result(request, name, judgement, attempt, tries, queue_s if name else 0.0, time.monotonic() - asked)
            self._report(request, result, attempt)
            if not MEANING[result.outcome].retried or ender.by is not None or not name:
                return result
            if tries < self._settings.max_attempts:
                if attempt.evidence.unanswered:
                    await self._engine_back(ender)
                elif not self.breaker.may_retry(who.split, step, result.error or result.outcome.value):
                    return result
                await asyncio.sleep(BACKOFF_S * 2 ** (tries - 1) * (0.5 + random.random()))
        return result

    async def _engine_back(self, ender: Ender) -> None:
        """Wait, at most as long as a trial may take and until it is ended, for an engine that another attempt would find."""
        ender.task = asyncio.current_task()
        try:
            async with asyncio.timeout(self._settings.hard_timeout_s):
                while ender.by is None and not await self._attempts.engine_answers():
                    await asyncio.sleep(ENGINE_ASK_S)
        except TimeoutError:
            return  # the attempt that follows says what is the matter
        except asyncio.CancelledError:
            if ender.by is None or ender.task is None:
                raise
            ender.task.uncancel()
        finally:
            ender.task = None

    @contextlib.asynccontextmanager
    async def _turn(self, request: TrialRequest, ender: Ender) -> AsyncIterator[_Begun | None]:
        """A place among those that run, in the order in which trials came. Where all are taken and there is a pool, the trial's sandbox is
        made ready meanwhile, and further in its turn if it is not up by then; whatever the body leaves of that is thrown away."""
        begun, ahead = None, None
        if self.warm.size and self._slots.locked():
            ahead = Ahead(self.warm, lambda: self._ahead(request, ender))
        try:
            async with _slot(self._slots, ender):
                if ahead is not None and ender.by is None:
                    begun = await self._finished(ahead, ender)
                yield begun
        finally:
            begun = begun or (None if ahead is None else await asyncio.shield(ahead.give_up()))
            if begun is not None and begun.ready is not None:
                await asyncio.shield(self.warm.discard(begun.ready))

    async def _finished(self, ahead: Ahead[_Begun], ender: Ender) -> _Begun | None:
        """What was begun ahead, now that the trial has its turn; None when that is nothing, or the trial is ended."""
        ender.task = asyncio.current_task()
        try:
            return await ahead.taken()
        except asyncio.CancelledError:
            if ender.by is None or ender.task is None:
                raise
            ender.task.uncancel()
            return None
        finally:
            ender.task = None

    async def _ahead(self, request: TrialRequest, ender: Ender) -> _Begun | None:
        """The next attempt's number and name, and its sandbox. None when the trial is ended or set aside, or it does not start."""
        if ender.by is not None or self.breaker.problem is not None or self.quarantine.holds(request.identity.task_hash):
            return None
        begun, began = self._begin(request), time.monotonic()
        try:
            begun.ready = await self._attempts.prepare(request, begun.name)
        except Exception as error:  # the attempt that follows meets the same trouble, where it counts
            self.warm.failed(begun.name, error)
            return None
        self.warm.prepared(begun.ready, time.monotonic() - began)
        return begun

    def _begin(self, request: TrialRequest) -> _Begun:
        number, name = self._journal.begin(request.identity, lambda n: _trial_name(request, n))
        shutil.rmtree(self._settings.trials_dir / name, ignore_errors=True)  # a name is new, unless the journal was lost
        return _Begun(number, name)

    async def _attempt(self, request: TrialRequest, ender: Ender, begun: _Begun | None, asked: float) -> tuple[Attempt, str, float]:
        """One attempt that has its turn: what it left, its name (empty when nothing was started), and how long it waited."""
        who, step = request.identity, request.step
        if self.quarantine.holds(who.task_hash):
            evidence = Evidence(exception="SandboxBuildFailedError")
            return Attempt(evidence, error=f"task {request.task_id} is quarantined: {self.quarantine.why(who.task_hash)}"), "", 0.0
        ready = None
        if begun is not None and begun.ready is not None:
            ready, begun.ready = begun.ready, None
            if not await self.warm.alive(ready, self._attempts.address()):
                ready = begun = None
        begun = begun or self._begin(request)
        queue_s = time.monotonic() - asked
        self._events.emit(
            "trial.started",
            step=step,
            trial=begun.name,
            task=request.task_id,
            split=who.split,
            attempt=begun.number,
            warm=ready is not None,
        )
        if who.split == "train":
            self.tail.running(step, who.key)
        self.running += 1
        try:
            return await self._attempts.run(request, begun.number, begun.name, ender, ready), begun.name, queue_s
        finally:
            self.running -= 1

    def _judge(self, attempt: Attempt) -> tuple[Judgement, Attempt]:
        rule = self._settings
        try:
            return judge(attempt.evidence, rule.reward_key, rule.overlong, rule.timeout), attempt
        except RewardMissing as error:
            evidence = Evidence(exception="VerifierOutputParseError")
            return judge(evidence, rule.reward_key, rule.overlong, rule.timeout), replace(attempt, evidence=evidence, error=str(error))

    def _report(self, request: TrialRequest, result: TrialResult, attempt: Attempt) -> None:
        for finding in attempt.info.get("findings", []):
            self._events.emit("trial.finding", step=request.step, trial=result.trial_name, what=finding["kind"], path=finding["path"])
        if MEANING[result.outcome].against == "infrastructure":
            kind = attempt.evidence.exception or result.outcome.value
            self._events.emit("trial.failed", step=request.step, trial=result.trial_name, outcome=result.outcome.value, error=result.error)
            if result.trial_name and not attempt.evidence.unanswered:  # neither its sandbox, its task nor its host is to blame
                self.breaker.failed(kind, result.trial_name, result.error or "")
                self.quarantine.failed(result.identity.task_hash, request.task_id, attempt.host, result.error or kind)
        elif MEANING[result.outcome].against != "tail":
            self.breaker.good()
            self.quarantine.good(result.identity.task_hash, attempt.host)


@dataclass(slots=True)
class _Begun:
    """An attempt that has its number and name, and perhaps its sandbox."""

    number: int
    name: str
    ready: Ready | None = None


class _slot:
    """One of the runner's places. A trial that is ended while it waits does not wait on."""

    def __init__(self, slots: asyncio.Semaphore, ender: Ender):
        self._slots, self._ender = slots, ender

    async def __aenter__(self) -> None:
        if self._ender.by is None:
            self._ender.task = asyncio.current_task()
            try:
                await self._slots.acquire()
                self._held = True
                return
            except asyncio.CancelledError:
                if self._ender.by is None:
                    raise
                current = asyncio.current_task()
                assert current is not None
                current.uncancel()
        self._held = False

    async def __aexit__(self, *_: object) -> None:
        self._ender.task = None
        if self._held:
            self._slots.release()


def _trial_name(request: TrialRequest, number: int) -> str:
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", request.task_id.rsplit("/", 1)[-1]).strip("-.")[:40] or "task"
    return f"{request.identity.split}-{slug}-s{request.identity.sample}-{request.identity.digest}-{number}"


def _result(
    request: TrialRequest, name: str, judgement: Judgement, attempt: Attempt, tries: int, queue_s: float, total_s: float
) -> TrialResult:
    return TrialResult(
        identity=request.identity,
        trial_name=name,
        outcome=judgement.outcome,
        in_loss=judgement.in_loss,
        graded=judgement.graded,
        reward=judgement.reward,
        rewards=attempt.rewards if judgement.graded else {},
        session=attempt.session,
        attempts=tries,
        timing=Timing(
            **{key: round(value, 3) for key, value in {"queue_s": queue_s, "total_s": total_s}.items()},
            setup_s=round(attempt.setup_s, 3),
            agent_s=round(attempt.agent_s, 3),
            verifier_s=round(attempt.verifier_s, 3),
            hold_s=round(attempt.hold_s, 3),
        ),
        turns=attempt.turns,
        error=attempt.error,
        info={**attempt.info, "task_id": request.task_id, "step": request.step, "phase": attempt.phase},
    )


def _summary(result: TrialResult) -> Mapping[str, Any]:
    timing = result.timing
    return {
        "split": result.identity.split,
        "task_hash": result.identity.task_hash,
        "sample": result.identity.sample,
        "version": result.identity.version,
        "outcome": result.outcome.value,
        "in_loss": result.in_loss,
        "reward": result.reward,
        "turns": result.turns,
        "attempts": result.attempts,
        "session": result.session,
        **{name: getattr(timing, name) for name in ("queue_s", "setup_s", "agent_s", "verifier_s", "total_s", "hold_s")},
        "error": result.error,
    }
