"""The supervisor: starts a run's processes, watches them, starts services that died again, and ends everything it started.

Order: services in the order of the plan, each when the one before is up, then the trainer. The run lasts as long as the trainer. Whatever
happens, exceptions included, all processes of the run are ended before ``run`` returns, and the registry says how the run ended.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from swerl.errors import Problem, SwerlError, fail
from swerl.record.events import EventLog
from swerl.record.logs import RateLines, first_error
from swerl.record.memory import used_mb
from swerl.record.metrics import read_metrics
from swerl.record.process import TOKEN_VARIABLE, end_processes, send, this_process
from swerl.record.registry import Registry
from swerl.record.rundir import RunDir
from swerl.record.services import answers, entry_of
from swerl.record.states import State
from swerl.runs import cleanup, samples, sharedmemory
from swerl.runs.boot import BootWatch
from swerl.runs.children import Child, Children, adopt_orphans, describe_status
from swerl.runs.display import Display
from swerl.runs.feed import Feed
from swerl.runs.guard import Guard
from swerl.runs.plan import Plan, ProcessSpec
from swerl.runs.sharedmemory import NewSegments, Segment
from swerl.runs.stop import StopRequest, read_request
from swerl.watch.alarm import Action

TRAINER_STOPPED = 3  # the trainer's exit code for "asked to stop, and saved"
TRAINER_LOST = 4  # for "the engine or another process of mine is gone"
HOUSEKEEPING_S = 5.0
RESUMES = "mend what its log says first and give the same command again: it resumes"
ENGINE_TITLE = "VLLM::"  # how vLLM calls its engine and worker processes


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended. ``by_signal``: somebody pressed Ctrl-C or sent SIGTERM."""

    state: State
    problem: Problem | None = None
    exit_code: int | None = None
    by_signal: bool = False


@dataclass(slots=True)
class _Service:
    """A service's fortunes: its process now, when it has to be up, when it is to be started again, and when it died before."""

    spec: ProcessSpec
    child: Child | None = None
    up: bool = False
    was_up: bool = False
    started_at: float = 0.0
    start_at: float | None = None
    deaths: list[float] = field(default_factory=list)


class Supervisor:
    """One life of one run. Needs the run's lock, a prepared directory, and the main thread (signals)."""

    def __init__(self, run: RunDir, registry: Registry, plan: Plan, display: Display):
        self._run, self._registry, self._plan, self._display = run, registry, plan, display
        self._events = EventLog(run.events_of("supervisor"), "supervisor")
        self._children = Children({TOKEN_VARIABLE: cleanup.token_of(run), "SPT_NOENV": "1", "TMPDIR": str(run.tmp)})
        self._services = [_Service(spec) for spec in plan.services]
        self._trainer: Child | None = None
        self._trainer_deaths = 0  # since the last step that was new
        self._trained = 0
        self._trainer_start_at = 0.0
        self._guard = Guard(run, plan, self._events, display.line)
        self._feed = Feed(run, plan.total_steps, self._guard.listen, plan.sizes)
        self._feed.progress.boot_s = None if plan.terms is None else plan.terms.watch.boot_min * 60
        self._boot = BootWatch(run.logs, self._events.emit, lambda: cleanup.owned(run, registry, plan.trainer.name))
        self._rates = RateLines(run.trainer_log, run.vllm_log)
        self._segments = NewSegments()
        self._in_use: set[Segment] = set()
        self._used_mb = 0
        self._new_rates: list[str] = []
        self._told_rates = 0.0
        self._peak_mb = self._engine_mb = 0
        self._signals = 0
        self._stop: StopRequest | None = None
        self._stopping_since = 0.0
        self._kept_house = 0.0

    def run(self) -> Outcome:
        adopt_orphans()
        self._run.create_scratch()
        self._run.stop_request.unlink(missing_ok=True)
        self._registry.begin(self._run.id, this_process(), self._plan.total_steps)
        self._events.emit("run.running", durable=True)
        outcome = Outcome(State.FAILED, Problem("SWERL-R013", "the supervisor itself failed", "report this, with the traceback"), 1)
        sampler = samples.HostSampler(self._events, self._run.root, lambda: self._used_mb)
        sampler.start()
        with self._listening():
            try:
                outcome = self._watch()
            except SwerlError as error:
                outcome = Outcome(State.FAILED, error.problems[0], 1)
            finally:
                sampler.stop()
                self._end_all()  # before anything is written: a full disk must not keep a process alive
                self._write_down(outcome)
        return outcome

    # One tick after the other until there is a verdict

    def _watch(self) -> Outcome:
        while True:
            for child in self._children.reap():
                outcome = self._ended(child)
                if outcome is not None:
                    return outcome
            outcome = self._attend_stop()
            if outcome is not None:
                return outcome
            self._attend_services()
            self._attend_engine()
            self._boot.attend(self._trainer, self._feed.progress.engine_up, time.monotonic())
            self._keep_house()
            alarm = self._guard.attend()
            if alarm is not None:
                return Outcome(State.FAILED, alarm.as_problem())
            time.sleep(self._plan.tick_s)

    def _attend_services(self) -> None:
        for service in self._services:
            now = time.monotonic()
            if service.child is None:
                if self._stop is None and (service.start_at is None or now >= service.start_at):
                    service.child = self._start(service.spec)
                    service.started_at = now
            elif not service.up:
                if self._is_up(service):
                    service.up = service.was_up = True
                    self._say("process.ready", process=service.spec.name, seconds=time.monotonic() - service.started_at)
                elif now - service.started_at > service.spec.ready_timeout_s:
                    raise self._failure(
                        "SWERL-R010", service.child, f"was not up within {service.spec.ready_timeout_s:.0f} s", remedy=RESUMES
                    )
            if not service.was_up:
                return  # the next one waits for it
        if self._trainer is None and self._stop is None and time.monotonic() >= self._trainer_start_at:
            self._trainer = self._start(self._plan.trainer)

    def _attend_engine(self) -> None:
        """End a trainer that outlives its engine: it may wait in an update for weights that nobody takes."""
        died = self._feed.progress.engine_died
        if died is not None and self._trainer is not None and time.monotonic() - died > self._plan.engine_gone_s:
            send(self._trainer.ref, signal.SIGKILL)

    def _is_up(self, service: _Service) -> bool:
        assert service.child is not None
        if not service.spec.url_key:
            return True
        entry = entry_of(self._run.services, service.spec.name, service.child.ref.pid)
        return entry is not None and answers(entry[service.spec.url_key], service.spec.health_path)

    def _start(self, spec: ProcessSpec) -> Child:
        try:
            child = self._children.start(spec)
        except OSError as error:
            raise fail("SWERL-R011", f"{spec.name} cannot be started: {error}", "make setup", where=spec.argv[0]) from error
        self._registry.started(self._run.id, spec.name, child.ref)
        self._say("process.started", process=spec.name, pid=child.ref.pid)
        return child

    # Deaths

    def _ended(self, child: Child) -> Outcome | None:
        assert child.status is not None
        self._events.emit("process.ended", durable=True, process=child.name, pid=child.ref.pid, how=describe_status(child.status))
        if child is self._trainer:
            return None if self._starts_again(child) else self._verdict(child)
        service = next(service for service in self._services if service.child is child)
        end_processes(lambda: cleanup.owned(self._run, self._registry, child.name), grace_s=self._plan.sweep_grace_s)
        self._registry.ended(self._run.id, child.ref)
        service.child, service.up = None, False
        if self._stop is not None:
            return None
        if not service.was_up:
            raise self._failure("SWERL-R012", child, f"ended at its start ({describe_status(child.status)})", remedy=RESUMES)
        now = time.monotonic()
        service.deaths = [at for at in service.deaths if now - at < self._plan.restart_window_s] + [now]
        if len(service.deaths) > self._plan.max_restarts:
            raise self._failure(
                "SWERL-R014", child, f"died {len(service.deaths)} times in {self._plan.restart_window_s:.0f} s", remedy=RESUMES
            )
        service.start_at = now + self._plan.restart_delay_s * len(service.deaths)
        self._say("process.died", process=child.name, how=describe_status(child.status), next="starting it again")
        return None

    def _starts_again(self, trainer: Child) -> bool:
        """Whether the trainer's death is put up with: after its engine was up it was killed, has lost a process, or ended without a word,
        as it does when Ray's own processes die. Gateway and runner, and the trials there, wait for the next start, which goes on from the
        newest checkpoint."""
        status = trainer.status
        assert status is not None
        self._keep_house()
        progress = self._feed.progress
        lost = status < 0 or status == TRAINER_LOST or (status not in (0, TRAINER_STOPPED) and not progress.trainer_spoke)
        if self._stop is not None or not progress.engine_up or not lost:
            return False
        self._trainer_deaths = 1 if (progress.step or 0) > self._trained else self._trainer_deaths + 1
        self._trained = max(self._trained, progress.step or 0)
        if self._trainer_deaths > self._plan.trainer_restarts:
            return False
        line = first_error(trainer.spec.log, trainer.log_offset) if status == TRAINER_LOST else None  # who is killed says nothing of it
        self._note_shared_memory()
        end_processes(lambda: cleanup.owned(self._run, self._registry, trainer.name), grace_s=self._plan.sweep_grace_s)
        sharedmemory.remove(self._run.leftovers, self._in_use)
        self._registry.ended(self._run.id, trainer.ref)
        self._trainer = None
        progress.engine_up, progress.engine_died = False, None  # of the one that is gone
        self._trainer_start_at = time.monotonic() + self._plan.restart_delay_s * self._trainer_deaths
        how, said = describe_status(status), f'; its log says first: "{line.text[:200]}"' if line else ""
        self._say("process.died", process=trainer.name, how=how + said, next="starting it again from the newest checkpoint")
        return True

    def _verdict(self, trainer: Child) -> Outcome:
        status = trainer.status
        assert status is not None
        if status == TRAINER_STOPPED or (status != 0 and self._stop is not None):
            return Outcome(State.INTERRUPTED, self._pausing(), exit_code=status, by_signal=self._signals > 0)
        self._keep_house()
        if status != 0 and self._feed.progress.broken is not None:  # nothing is lost or wrong in the run itself: it waits for its sandboxes
            return Outcome(State.INTERRUPTED, self._feed.progress.broken, status)
        if status != 0:
            return Outcome(
                State.FAILED, self._failure("SWERL-R008", trainer, f"ended: {describe_status(status)}", remedy=RESUMES).problems[0], status
            )
        if self._plan.trains and not any(row.step >= 1 for row in read_metrics(self._run.metrics)):
            problem = self._failure("SWERL-R009", trainer, "ended without an error, but trained no step", remedy=RESUMES).problems[0]
            return Outcome(State.FAILED, problem, status)
        return Outcome(State.COMPLETED, exit_code=status)

    def _failure(self, id: str, child: Child, what: str, *, remedy: str) -> SwerlError:
        """A process's end as a problem, with the first error its log shows since it was started."""
        line = first_error(child.spec.log, child.log_offset)
        said = f'; its log says first: "{line.text[:300]}"' if line else "; its log is empty"
        return fail(id, f"{child.name} {what}{said}", remedy, where=line.where if line else str(child.spec.log))

    # Stopping

    def _pausing(self) -> Problem | None:
        """The alarm that asked for an orderly end; None where a person did."""
        return None if self._guard.pausing is None else self._guard.pausing.as_problem()

    def _attend_stop(self) -> Outcome | None:
        """Ctrl-C and SIGTERM end the trainer now; a stop request waits until it has saved, up to its deadline."""
        request = self._stop or read_request(self._run.stop_request)
        if self._signals:
            request = StopRequest("now")
        if request is None:
            return None
        if self._stop is None or self._stop.mode != request.mode:
            self._begin_stop(request)
        deadline_s = self._plan.stop_deadline_s if request.deadline_s is None else request.deadline_s
        if request.mode == "now" or self._trainer is None or time.monotonic() - self._stopping_since > deadline_s:
            return Outcome(State.INTERRUPTED, self._pausing(), by_signal=self._signals > 0)
        return None

    def _begin_stop(self, request: StopRequest) -> None:
        if self._stop is None:
            self._registry.move(self._run.id, State.STOPPING)
        self._stop, self._stopping_since = request, time.monotonic()
        self._events.emit("run.stopping", durable=True, mode=request.mode)
        if request.mode == "now":
            self._display.line("stopping now; steps after the last checkpoint will be done again. Once more to end it at once")
        else:
            self._display.line("stopping after this step, when it is saved")

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Count signals instead of dying of them. A closed terminal (SIGHUP) is a request to stop."""

        def count(signum: int, frame: object) -> None:
            self._signals += 1

        before = {signum: signal.signal(signum, count) for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)

    # The end

    def _end_all(self) -> None:
        """End every process of the run, trainer first, and remove what they leave outside the run directory."""
        self._note_shared_memory()  # while there is somebody to ask
        for child in reversed(self._children.living()):
            self._end(child)
        cleanup.sweep(self._run, self._registry, grace_s=self._grace_s(), segments=self._in_use)

    def _write_down(self, outcome: Outcome) -> None:
        """How it ended. The state is written last: until then the run is alive."""
        self._keep_house(now=True)
        self._guard.look()  # what the last step's row says
        problem = str(outcome.problem) if outcome.problem else None
        self._events.emit(f"run.{outcome.state}", durable=True, problem=problem)
        grave: Action = "stop" if outcome.state == State.FAILED else "pause" if problem else "note"
        end = {"state": outcome.state, "problem": problem, "step": self._feed.progress.step}
        self._guard.tell(f"{self._run.id} {outcome.state}", end, grave)
        self._guard.close()
        self._events.close()
        self._run.stop_request.unlink(missing_ok=True)
        self._registry.move(self._run.id, outcome.state, exit_code=outcome.exit_code, problem=problem)

    def _end(self, child: Child) -> None:
        """Ask the process, give it its time, then end it with all it started."""
        send(child.ref, signal.SIGTERM)
        deadline = time.monotonic() + child.spec.stop_grace_s
        while child.status is None and time.monotonic() < deadline and self._signals < 2:
            time.sleep(self._plan.tick_s / 2)
            self._children.reap()
        self._note_shared_memory()
        send(child.ref, signal.SIGKILL)
        end_processes(lambda: cleanup.owned(self._run, self._registry, child.name), grace_s=self._grace_s())
        self._children.reap()

    # Small things

    def _note_shared_memory(self) -> None:
        """Kept here too: a full disk takes no record, and whoever used a segment may be dead when all are ended."""
        self._in_use |= cleanup.note_shared_memory(self._run, self._registry)

    def _grace_s(self) -> float:
        return 0.0 if self._signals > 1 else self._plan.sweep_grace_s

    def _say(self, kind: str, **fields: object) -> None:
        self._events.emit(kind, durable=True, **fields)

    def _keep_house(self, now: bool = False) -> None:
        for line in self._feed.poll():
            self._display.line(line)
        self._display.show(self._feed.progress)
        if self._segments.appeared():
            self._note_shared_memory()
        if now or time.monotonic() - self._kept_house >= HOUSEKEEPING_S:
            self._kept_house = time.monotonic()
            self._tell_rates(self._rates.copy())
            self._registry.beat(self._run.id, self._feed.progress.step, self._feed.progress.total_steps)
            self._watch_memory()
            self._note_shared_memory()

    def _tell_rates(self, lines: list[str]) -> None:
        """What the engines said of themselves, as an event: readers of the run read no log."""
        self._new_rates += lines
        if self._new_rates and time.monotonic() - self._told_rates >= samples.EVERY_S:
            self._told_rates = time.monotonic()
            self._events.emit("engine.rates", **samples.engine_rates(self._new_rates))
            self._new_rates = []

    def _watch_memory(self) -> None:
        """An event for each new peak that is worth one: of all processes, and of engines and trainer's workers beside it."""
        owned = cleanup.owned(self._run, self._registry)
        engine = used_mb(seen.pid for seen in owned if seen.command.startswith(ENGINE_TITLE))
        used = self._used_mb = used_mb(seen.pid for seen in owned)
        if used > 1.02 * self._peak_mb or engine > 1.02 * self._engine_mb:
            self._peak_mb, self._engine_mb = max(used, self._peak_mb), max(engine, self._engine_mb)
            self._events.emit("run.memory", peak_mb=self._peak_mb, engine_mb=self._engine_mb)
