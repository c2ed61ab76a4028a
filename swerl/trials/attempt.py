"""One attempt of a trial: one gateway session, one fresh sandbox, one Harbor trial. What it left is returned as evidence.

Order that always holds: session opened → sandbox → agent, on our clock → agent's processes ended and its way out closed → session closed →
verifier → sandbox gone. Each step back happens on every path, cancellation included.
"""

from __future__ import annotations

import asyncio
import hashlib
import shlex
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from harbor.models.trial.config import AgentConfig, EnvironmentConfig, TaskConfig, TrialConfig, VerifierConfig
from harbor.models.verifier.result import VerifierResult
from harbor.trial.hooks import TrialEvent
from harbor.trial.trial import Trial

from swerl.errors import SwerlError
from swerl.record.events import EventLog
from swerl.record.model import TrialRequest
from swerl.record.outcomes import Outcome
from swerl.record.session_journal import journal_path
from swerl.trials import agentcfg, blame
from swerl.trials.backends import Needs, backend_of
from swerl.trials.clock import PROBE_S, GatewayWatch, OutOfTime, within
from swerl.trials.detectors import detect, recorded_calls
from swerl.trials.evidence import Attempt, collect, read_logs
from swerl.trials.gateway import Closed, GatewayAdmin, GatewayRefused, GatewayUnreachable, Session
from swerl.trials.sandboxes.gradable import Gradable, SandboxExhausted
from swerl.trials.sandboxes.leftovers import EMPTY_TRUSTED, END_OTHERS, SNAPSHOT
from swerl.trials.screening import Finding
from swerl.trials.settings import GRADING, RunnerSettings
from swerl.trials.warm import Ready


class Ender:
    """Who ended an attempt before its time, if anybody did. `end` cancels the attempt's task once."""

    def __init__(self) -> None:
        self.by: Outcome | None = None
        self.task: asyncio.Task[Any] | None = None

    def end(self, by: Outcome) -> None:
        if self.by is None:
            self.by = by
            if self.task is not None:
                self.task.cancel()


class AttemptRunner:
    def __init__(self, settings: RunnerSettings, gateway: GatewayAdmin, watch: GatewayWatch, events: EventLog):
        self._settings, self._gateway, self._watch, self._events = settings, gateway, watch, events
        self._backend = backend_of(settings.harbor["environment"])
        self.avoid: Mapping[str, str] = {}  # hosts that no new sandbox should go to

    def address(self) -> str | None:
        """The gateway's, for the agents of this run; None for those that need none."""
        return None if agentcfg.is_utility(self._settings.harbor["agent"]) else self._gateway.public_url()

    async def prepare(self, request: TrialRequest, trial_name: str) -> Ready:
        """The attempt's sandbox, started before its turn. Raises whatever kept it from starting, and then leaves nothing."""
        public_url = self.address()
        environment, _ = self._environment(public_url)
        trial = await Trial.create(self._trial_config(request, trial_name, AgentConfig(name="nop"), environment))
        trial._close_logger_handler()
        try:
            start = trial.agent_environment.start(force_build=trial.config.environment.force_build)
            await asyncio.wait_for(start, trial.environment_build_timeout_sec)
        except BaseException:
            await asyncio.shield(trial.agent_environment.stop(delete=True))
            raise
        return Ready(trial_name, trial.agent_environment, public_url)

    async def run(self, request: TrialRequest, number: int, trial_name: str, ender: Ender, ready: Ready | None = None) -> Attempt:
        """Never raises for what goes wrong in the attempt: that is its evidence. CancelledError only when ``ender`` did not cause it.
        ``ready`` is the sandbox that `prepare` has started for it."""
        attempt = Attempt()
        ender.task = asyncio.current_task()
        limit_s = self._settings.hard_timeout_s
        session: Session | None = None
        started, its_own = time.monotonic(), False

        async def held_s() -> float:
            nonlocal its_own
            # When its time was up; ending it goes through later phases.
            its_own = attempt.phase == "agent" or getattr(attempt.verifier, "handed_over", False)
            return await self._held_s(session.id if session else None, started)

        try:
            if ender.by is not None:
                raise asyncio.CancelledError
            if not agentcfg.is_utility(self._settings.harbor["agent"]):
                session = await self._open(request, number)
                attempt.session = session.id
            await within(self._trial(request, trial_name, session, attempt, ready), limit_s, held_s)
        except OutOfTime:
            by = Outcome.AGENT_TIMEOUT if its_own else None
            self._blame(attempt, "OutOfTime", f"the trial took more than {limit_s:.0f} s", by)
        except asyncio.CancelledError:
            if ender.by is None or ender.task is None:
                raise
            ender.task.uncancel()
            self._blame(attempt, "CancelledError", f"ended by the runner: {ender.by.value}", ender.by)
        except Exception as error:  # the border: whatever broke, in Harbor or here, is this attempt's evidence
            self._blame(attempt, type(error).__name__, str(error), None)
        finally:
            if session is not None:
                await asyncio.shield(self._close(session, attempt))
        phase = "setup" if attempt.agent_began is None else "agent" if attempt.failed is None else "grading"
        attempt.evidence = replace(attempt.evidence, phase=phase, spoke=session is None or attempt.turns > 0)
        if session is not None:
            self._add_gateways_word(attempt)
            await self._add_findings(session, attempt)
        return attempt

    async def _add_findings(self, session: Session, attempt: Attempt) -> None:
        """What the recorded calls show that the agent tried."""
        journal = journal_path(self._settings.sessions_dir, session.id)
        try:
            tried = await asyncio.to_thread(lambda: detect(recorded_calls(journal)))
        except (OSError, SwerlError) as error:
            tried = [Finding("unread-record", str(error))]
        if tried:
            attempt.info["findings"] = attempt.info.get("findings", []) + [finding.as_dict() for finding in tried]

    def _add_gateways_word(self, attempt: Attempt) -> None:
        """An agent does not say whether it met an error of ours, and one that is not ours not even why it stopped. The gateway knows."""
        closed, said = attempt.closed, ""
        if closed is None:
            said = "the gateway could not be asked what became of its requests"
        elif closed.unanswered:
            said = f"{closed.unanswered} of its requests had no answer from the engine"
        elif self._cut_off(attempt, closed):
            said = "the gateway was away when it gave up"
        if said:
            attempt.error = said if attempt.error is None else f"{said}; {attempt.error}"
            attempt.evidence = replace(attempt.evidence, unanswered=True)
        elif closed is not None and attempt.evidence.exception is None and "stop" not in attempt.info:
            attempt.evidence = replace(attempt.evidence, context_overflow=closed.overflow, hit_max_turns=closed.max_turns)

    def _cut_off(self, attempt: Attempt, closed: Closed) -> bool:
        """Whether the gateway was away while the agent ran and the agent has had no answer since. Of one that ended without an error, an
        absence shorter than the watch can time says nothing."""
        if attempt.agent_began is None:
            return False
        until = attempt.agent_ended or time.monotonic()
        least_s = 0.0 if attempt.evidence.exception is not None else 2 * PROBE_S
        answered = None if closed.silent_s is None else attempt.closed_at - closed.silent_s
        away = [span for span in self._watch.absences(attempt.agent_began, until) if span.seconds > least_s]
        return any(answered is None or answered < span.missed for span in away)

    async def engine_answers(self) -> bool:
        """Whether a new attempt would find an engine. A gateway that is away has none."""
        try:
            return await self._gateway.engine_answers()
        except (GatewayUnreachable, GatewayRefused):
            return False

    def _blame(self, attempt: Attempt, kind: str, text: str, by: Outcome | None) -> None:
        attempt.evidence = replace(attempt.evidence, exception=kind if by else attempt.evidence.exception or kind, ended_by=by)
        attempt.error = attempt.error or f"{kind}: {text}"[:2000]

    async def _open(self, request: TrialRequest, number: int) -> Session:
        who = request.identity
        sampling = self._settings.train if who.split == "train" else self._settings.val
        parts = f"{self._settings.seed}|{who.split}|{who.task_hash}|{who.sample}"  # an attempt begun again samples as the first one did
        parts += f"|{request.epoch}" if request.anew else ""  # asked for because what the first sample gave is of no use
        return await self._gateway.open(
            {"split": who.split, "task": request.task_id, "sample": who.sample, "attempt": number, "version": who.version},
            {key: getattr(sampling, key) for key in ("temperature", "top_p", "top_k", "max_tokens")},
            int.from_bytes(hashlib.sha256(parts.encode()).digest()[:6], "big"),
            self._settings.max_turns,
        )

    async def _close(self, session: Session, attempt: Attempt) -> None:
        """Close for good; closing twice is fine. A gateway that stays away leaves the session open, which its own limits end."""
        try:
            closed = await self._gateway.close(session.id, attempt.phase)
            if attempt.closed is None:  # closing again tells the same
                attempt.closed, attempt.closed_at = closed, time.monotonic()
            attempt.turns, attempt.hold_s = closed.turns, closed.hold_s
            if closed.usage:
                attempt.info["usage"] = dict(closed.usage)
        except (GatewayUnreachable, GatewayRefused) as error:
            self._events.emit("trial.session_not_closed", session=session.id, error=str(error))

    async def _held_s(self, session: str | None, since: float) -> float:
        away_s = self._watch.away_s(since)
        if session is None:
            return away_s
        try:
            return away_s + await self._gateway.hold_s(session)
        except (GatewayUnreachable, GatewayRefused):
            return away_s

    async def _trial(self, request: TrialRequest, trial_name: str, session: Session | None, attempt: Attempt, ready: Ready | None) -> None:
        attempt.phase = "load"
        trial = await Trial.create(self._config(request, trial_name, session))
        if ready is not None:
            ready.give_to(trial)
        limit_s = agentcfg.agent_limit_s(
            self._settings.harbor["agent"], trial.task.config.agent.timeout_sec, self._settings.harbor.get("agent_timeout_multiplier")
        )
        run, environment = trial.agent.run, trial.agent_environment

        async def on_our_clock(*args: Any, **kwargs: Any) -> None:
            began = time.monotonic()
            try:
                await within(run(*args, **kwargs), limit_s, lambda: self._held_s(session.id if session else None, began))
            except Exception as error:
                ours = blame.outside(error)
                if ours is None or ours is error:
                    raise
                raise ours from error

        trial.agent.run = on_our_clock  # type: ignore[method-assign]

        async def verified(verifier: Any, limit_s: float | None) -> VerifierResult:
            attempt.verifier = verifier
            try:
                result, findings = await blame.verdict(verifier, limit_s, self._settings.reward_key)
            except SandboxExhausted:
                raise
            except Exception as error:
                attempt.failed = error
                raise
            attempt.findings += findings
            attempt.sound = trial.result.exception_info is None
            return result

        trial._verify_with_timeout = verified  # type: ignore[method-assign]

        trial._sync_agent_output = lambda result: read_logs(trial, result, attempt)  # type: ignore[method-assign]

        def now_in(phase: str) -> None:
            attempt.phase = phase
            self._events.emit("trial.phase", step=request.step, trial=trial_name, phase=phase)

        own_processes = ""

        async def agent_begins(_: Any) -> None:
            nonlocal own_processes
            now_in("agent")
            attempt.agent_began = time.monotonic()
            if not isinstance(environment, Gradable):
                there = await environment.exec(f"sh -c {shlex.quote(SNAPSHOT)}", user="root", timeout_sec=60)
                own_processes = " ".join((there.stdout or "").split())

        async def agent_over(_: Any) -> None:
            now_in("grading")
            attempt.agent_ended = attempt.agent_ended or time.monotonic()
            try:
                await self._quiet(environment, own_processes)
            finally:
                if session is not None:
                    await self._close(session, attempt)

        def enter(phase: str) -> Any:
            async def hook(_: Any) -> None:
                now_in(phase)

            return hook

        trial.add_hook(TrialEvent.ENVIRONMENT_START, enter("setup"))
        trial.add_hook(TrialEvent.AGENT_START, agent_begins)
        trial.add_hook(TrialEvent.AGENT_END, agent_over)
        trial.add_hook(TrialEvent.VERIFICATION_START, enter("verifier"))
        try:
            await trial.run()
        finally:
            collect(trial, attempt)

    async def _quiet(self, environment: Any, own_processes: str) -> None:
        if isinstance(environment, Gradable):
            await environment.close_network()
            await environment.prepare_grading()
        else:
            ending = f"sh -c {shlex.quote(END_OTHERS)} {shlex.quote(own_processes)}"
            await environment.exec(ending, user="root", timeout_sec=60)
            await environment.exec(EMPTY_TRUSTED, user="root", timeout_sec=60)

    def _config(self, request: TrialRequest, trial_name: str, session: Session | None) -> TrialConfig:
        public_url = self._gateway.public_url() if session is not None else None
        environment, inside_url = self._environment(public_url)
        key = session.key if session is not None else None
        agent = agentcfg.agent_config(self._settings.harbor["agent"], public_url=public_url, inside_url=inside_url, key=key)
        return self._trial_config(request, trial_name, agent, environment)

    def _trial_config(self, request: TrialRequest, trial_name: str, agent: AgentConfig, environment: Mapping[str, Any]) -> TrialConfig:
        harbor = self._settings.harbor
        verifier = dict(harbor["verifier"])
        if not verifier.get("disable"):
            verifier["import_path"] = GRADING
        return TrialConfig(
            task=TaskConfig(path=request.task_dir),
            trial_name=trial_name,
            trials_dir=self._settings.trials_dir,
            agent=agent,
            environment=EnvironmentConfig(**environment),
            verifier=VerifierConfig(**verifier),
            **{name: harbor[name] for name in harbor if name.endswith("_multiplier") and name != "agent_timeout_multiplier"},
        )

    def _environment(self, public_url: str | None) -> tuple[dict[str, Any], str | None]:
        """Harbor's environment with what our sandboxes need to know, and the gateway's address as seen from inside; None: out of reach."""
        settings = self._settings
        needs = Needs(
            run_tag=settings.run_tag,
            sandbox=settings.sandbox,
            changes_only=not settings.harbor["verifier"].get("disable", False),
            public_url=public_url,
            avoid=tuple(self.avoid),
        )
        return self._backend.environment(settings.harbor["environment"], needs)
