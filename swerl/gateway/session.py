"""A session: one attempt's tree, its journal, and the turns being sampled for it.

Work is owned by the session, not by the HTTP request that asked for it: a client that loses its connection and tries again is given the
turn it asked for, sampled or about to be. A repeated request gets a stored answer only while no client has read that answer, or when the
client says that it retries; otherwise it is a genuine second sample and becomes a sibling.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

from swerl.gateway.chat import Answer, ChatRequest
from swerl.gateway.errors import ApiError, SuspendedError, context_overflow
from swerl.gateway.gate import EngineGate, Hold
from swerl.gateway.history import Histories, ToolSets
from swerl.gateway.live import LiveText, LiveTokens
from swerl.gateway.metrics import Metrics
from swerl.gateway.parsers import AnswerReader
from swerl.gateway.placement import Placement, Placer
from swerl.gateway.records import context_record, turn_record
from swerl.gateway.sampling import Sampled, limit_tokens, request_seed, room_tokens, sample, sampling_for
from swerl.gateway.settings import GatewaySettings
from swerl.gateway.tree import Context, SessionTree, Turn, lineage, paths, turns_of_task
from swerl.record.events import EventLog
from swerl.record.session_journal import Journal

_IN_THREAD_CHARACTERS = 32_768  # placing so much new text (hashing, rendering, tokenising) leaves the event loop free
_PROBE_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Parts:
    """What all sessions share."""

    settings: GatewaySettings
    placer: Placer
    gate: EngineGate
    reader: AnswerReader
    tool_sets: ToolSets
    executor: Executor
    events: EventLog
    metrics: Metrics


@dataclass(slots=True, eq=False)
class Work:
    """A turn being sampled. ``clients`` are connections waiting for it; without one it is aborted after a grace period."""

    context: Context
    id: str
    turn_id: int
    live: LiveTokens = field(default_factory=LiveTokens)
    task: asyncio.Task[Turn] | None = None
    clients: int = 0
    orphaned: asyncio.TimerHandle | None = None


@dataclass(slots=True)
class Ticket:
    """A client's claim on a turn. Use `Session.result` to wait and exactly one of `Session.delivered` and `Session.lost` at the end."""

    request: ChatRequest
    context: Context
    turn: Turn | None = None
    work: Work | None = None
    live: LiveText | None = None


@dataclass(slots=True)
class Session:
    id: str
    trial: Mapping[str, Any]
    sampling: Mapping[str, Any]
    seed: int
    max_turns: int | None
    journal: Journal
    parts: Parts
    tree: SessionTree = field(default_factory=SessionTree)
    histories: Histories = field(default_factory=Histories)
    hold: Hold = field(default_factory=Hold)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    works: list[Work] = field(default_factory=list)
    delivering: set[int] = field(default_factory=set)
    marks: set[str] = field(default_factory=set)
    unanswered: set[str] = field(default_factory=set)  # places of requests that failed by us, until one there is answered
    closed: str | None = None
    suspended: bool = False
    aborted: int = 0
    answered_at: float | None = None  # when a client last read an answer of this process (monotonic)
    silent_s: float | None = None  # between that and the session's end
    model_s: float = 0.0  # the engine at work on turns that were recorded
    used_at: float = field(default_factory=time.monotonic)

    async def ticket(self, request: ChatRequest) -> Ticket:
        """Place the request and either find its answer or start sampling it. Raises ApiError and SuspendedError."""
        self.used_at = time.monotonic()
        try:
            return await self._ticket(request)
        except SuspendedError:
            raise
        except Exception as error:  # whatever it is, the client is answered 5xx for it unless it is a refusal
            if _is_ours(error):
                self._fail("")
            raise

    async def _ticket(self, request: ChatRequest) -> Ticket:
        async with self.lock:
            self._refuse_if_closed()
            placement = await self._place(request)
            self._refuse_if_suspended()
            self._note(placement)
            context = placement.context
            if (turn := self._stored_answer(context, request)) is not None:
                self.delivering.add(turn.id)
                return Ticket(request, context, turn=turn)
            if (work := self._running(context, request)) is None:
                work = self._start(context, request)
            work.clients += 1
            if work.orphaned is not None:
                work.orphaned.cancel()
                work.orphaned = None
            live = None
            if request.stream and not (request.want_logprobs or request.want_token_ids):
                live = work.live.read_by(self.parts.reader.certain, request)
            return Ticket(request, context, work=work, live=live)

    async def result(self, ticket: Ticket, timeout_s: float | None = None) -> Turn:
        """The sampled turn; it is on disk. Raises TimeoutError after ``timeout_s`` (the work goes on), ApiError and SuspendedError."""
        if ticket.turn is None:
            assert ticket.work is not None and ticket.work.task is not None
            try:
                ticket.turn = await asyncio.wait_for(asyncio.shield(ticket.work.task), timeout_s)
            except asyncio.CancelledError:
                if ticket.work.task.cancelled():
                    self._refuse_if_suspended()
                    raise ApiError(401, "session_closed", "The session was closed.") from None
                raise
            self.delivering.add(ticket.turn.id)
        return ticket.turn

    async def text(self, ticket: Ticket, timeout_s: float) -> str | None:
        """More text of the turn that is being sampled, "" when there is none within ``timeout_s``, None when the turn is over."""
        assert ticket.work is not None and ticket.work.task is not None and ticket.live is not None
        task, grown = ticket.work.task, asyncio.ensure_future(ticket.live.more.wait())
        try:
            await asyncio.wait({task, grown}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            grown.cancel()
        return None if task.done() else ticket.live.take()

    def delivered(self, ticket: Ticket) -> None:
        assert ticket.turn is not None
        self._leave(ticket)
        self._seen(ticket.turn)
        self._answer(ticket.context)
        self.answered_at = time.monotonic()

    def lost(self, ticket: Ticket) -> None:
        """The client went away before it had read the whole answer, or was told of an error instead. It counts as failed by us where the
        error is ours, and where the client had been kept waiting for the engine when it went."""
        self._leave(ticket)
        work = ticket.work
        unsaid = ticket.turn is None and work is not None and self._failed_by_us(work)
        if self.closed is None and (unsaid or (ticket.live is not None and ticket.live.broken)):
            self._fail(_place_of(ticket.context))
        if work is not None and work.clients == 0 and work.task is not None and not work.task.done():
            work.orphaned = asyncio.get_running_loop().call_later(self.parts.settings.disconnect_grace_s, self._abandon, work)

    async def count_tokens(self, request: ChatRequest) -> int:
        """Tokens of the conversation as one prompt."""
        template = self.parts.placer.template
        count = lambda: len(template.prompt(request.messages, request.tools, **request.template_kwargs))  # noqa: E731
        return await asyncio.get_running_loop().run_in_executor(self.parts.executor, count)

    async def close(self, reason: str) -> dict[str, Any]:
        """Abort what is being sampled and refuse the key from now on. Closing again reports the same."""
        if self.closed is None:
            self.closed = reason
            self.silent_s = None if self.answered_at is None else round(time.monotonic() - self.answered_at, 3)
            self.aborted += await self._abort_all()
            async with self.lock:  # a turn that was being recorded is whole by now
                self.journal.write({"k": "close", "reason": reason, "hold_s": self.hold.total_s, "aborted": self.aborted})
        usage = {name: self.figures()[name] for name in ("prompt_tokens", "cached_tokens", "sampled_tokens")}
        usage["model_s"] = round(self.model_s, 3)
        return {
            "turns": len(self.tree.turns),
            "hold_s": round(self.hold.total_s, 3),
            "aborted": self.aborted,
            "overflow": "overflow" in self.marks,
            "max_turns": "max_turns" in self.marks,
            "unanswered": len(self.unanswered),
            "silent_s": self.silent_s,
            "usage": usage,
        }

    def recall(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Take over from a journal what is not in the tree."""
        for r in records:
            self.model_s += r.get("model_s", 0.0)
            if r["k"] == "mark":
                self.marks.add(r["what"])
            elif r["k"] == "unanswered":
                self.unanswered = set(r["places"])
            elif "hold_s" in r:
                self.hold = Hold(r["hold_s"])
            if r["k"] == "close":
                self.closed, self.aborted = r["reason"], r["aborted"]

    def idle_since(self) -> float | None:
        """When it was last used (monotonic seconds), or None while something goes on in it."""
        return None if self.works or self.delivering or self.lock.locked() else self.used_at

    async def suspend(self) -> None:
        """Stop sampling without closing: for the end of the process. Afterwards nothing writes into the journal."""
        self.suspended = True
        await self._abort_all()
        async with self.lock:  # a turn that was being recorded is whole by now
            pass

    def recording(self, which: str = "all") -> dict[str, Any]:
        """The session as training rows; see `tree.paths`."""
        turns = turns_of_task(self.tree)
        limit = self.parts.settings.response_tokens
        rows = [
            {**p.as_dict(), "overlong": (limit is not None and len(p.response_ids) >= limit) or (p.main and "overflow" in self.marks)}
            for p in paths(self.tree, which=which)
        ]
        return {
            "session": self.id,
            "trial": self.trial,
            "sampling": self.sampling,
            "status": "open" if self.closed is None else f"closed: {self.closed}",
            "turns": turns,
            "prompt_tokens": sum(t.parent.end for t in self.tree.turns),
            "sampled_tokens": sum(t.tokens.count for t in self.tree.turns),
            "hold_s": round(self.hold.total_s, 3),
            "overflow": "overflow" in self.marks,
            "max_turns": "max_turns" in self.marks,
            "rerendered": "rerendered" in self.marks,
            "side_calls": len(self.tree.turns) - turns,
            "aborted": self.aborted,
            "paths": rows,
        }

    def figures(self) -> dict[str, float]:
        """What ``/metrics?sessions=1`` says of it."""
        turns = self.tree.turns
        return {
            "turns": len(turns),
            "prompt_tokens": sum(t.parent.end for t in turns),
            "cached_tokens": sum(t.cached_tokens for t in turns),
            "sampled_tokens": sum(t.tokens.count for t in turns),
            "working": len(self.works),
            "hold_seconds": round(self.hold.total_s, 3),
        }

    async def _place(self, request: ChatRequest) -> Placement:
        place = self.parts.placer.place
        if request.new_characters < _IN_THREAD_CHARACTERS and "rerendered" not in self.marks:
            return place(self.tree, request)
        placing = asyncio.get_running_loop().run_in_executor(self.parts.executor, place, self.tree, request)
        try:
            return await asyncio.shield(placing)
        except asyncio.CancelledError:
            await asyncio.wait([placing])  # the client is gone, but the thread is in the tree: the lock is let go when it is out
            raise

    def _note(self, placement: Placement) -> None:
        for turn in placement.known:
            self._seen(turn)
            self._answer(turn.parent)
        for rewrite in placement.rewrites:
            self.parts.events.emit(
                "gateway.rewrite", session=self.id, turn=rewrite.turn.id, kinds=sorted(rewrite.kinds), kept=rewrite.kept, trial=self.trial
            )
        if placement.rerendered:
            self._mark("rerendered")

    def _stored_answer(self, context: Context, request: ChatRequest) -> Turn | None:
        for turn in context.turns:
            if not turn.delivered and turn.id not in self.delivering:
                return turn
        return context.turns[-1] if context.turns and request.retry else None

    def _running(self, context: Context, request: ChatRequest) -> Work | None:
        for work in self.works:
            assert work.task is not None
            if work.context is context and (work.clients == 0 or request.retry) and not work.task.cancelling():
                return work
        return None

    def _start(self, context: Context, request: ChatRequest) -> Work:
        parts = self.parts
        if (room := room_tokens(parts.settings, context)) <= 0:
            self._mark("overflow")
            raise context_overflow(context.end, limit_tokens(parts.settings, context))
        if self.max_turns is not None and self._turns_so_far() >= self.max_turns:
            self._mark("max_turns")
            raise ApiError(400, "max_turns_exceeded", f"This session is limited to {self.max_turns} turns.")
        sibling = len(context.turns) + sum(w.context is context for w in self.works)
        seed = request_seed(self.seed, context, sibling)
        sampling = sampling_for(parts.settings, self.sampling, request, room, seed, parts.placer.template.stop_ids)
        work = Work(context, f"{self.id[:16]}-{context.id}-{sibling}-{time.time_ns():x}", self.tree.next_id())

        async def run() -> Turn:
            try:
                await self._readers_ready()
                async with parts.gate.slot(self.id, context.end, self.hold):
                    began, held_s = time.monotonic(), self.hold.total_s
                    sampled = await sample(parts.gate, self.id, work.id, context, sampling, self.hold, work.live)
                    model_s = max(0.0, time.monotonic() - began - (self.hold.total_s - held_s))
                answer = parts.reader.read(sampled, request)
                # shielded: once the journal has the turn, the tree has it too, whatever ends this task
                return await asyncio.shield(self._record(work, sampled, answer, probe=_is_probe(request), model_s=model_s))
            finally:
                self.works.remove(work)

        self.works.append(work)
        work.task = asyncio.get_running_loop().create_task(run())
        work.task.add_done_callback(_look_at_error)
        return work

    async def _record(self, work: Work, sampled: Sampled, answer: Answer, *, probe: bool, model_s: float) -> Turn:
        context, turn_id = work.context, work.turn_id
        async with self.lock:
            self._refuse_if_closed()
            unsaved = [n for n in lineage(context) if isinstance(n, Context) and not n.saved]
            await self._commit(
                *(context_record(n) for n in unsaved),
                turn_record(turn_id, context, sampled, answer, probe=probe, hold_s=self.hold.total_s, model_s=model_s),
            )
            self.model_s += model_s
            for node in unsaved:
                node.saved = True
            return self.tree.add_turn(
                context,
                sampled.token_ids,
                sampled.logprobs,
                sampled.versions,
                answer,
                probe=probe,
                cached_tokens=sampled.cached_tokens,
                id=turn_id,
            )

    async def _commit(self, *records: Mapping[str, Any]) -> None:
        try:
            await self.journal.commit(*records)
        except OSError as error:
            self.parts.metrics.journal_errors += 1
            raise ApiError(503, "journal_unwritable", f"The turn cannot be stored: {error.strerror}.", retry=True) from error

    def _try_write(self, record: Mapping[str, Any]) -> None:
        """For lines that only inform: when the disk is full the session goes on without them, and the next turn is refused."""
        try:
            self.journal.write(record)
        except OSError:
            self.parts.metrics.journal_errors += 1

    async def _readers_ready(self) -> None:
        """The parsers load for some seconds after the gateway's start; nobody's clock runs meanwhile."""
        self.hold.begin()
        try:
            await self.parts.reader.ready()
        finally:
            self.hold.end()

    async def _abort_all(self) -> int:
        works = list(self.works)
        await asyncio.gather(*(self._abort(work) for work in works))
        return len(works)

    async def _abort(self, work: Work) -> None:
        assert work.task is not None
        work.task.cancel()  # the connection to the engine ends with it, and with that the request
        await asyncio.wait([work.task])

    def _abandon(self, work: Work) -> None:
        if work.clients == 0 and work.task is not None and not work.task.done():
            self.aborted += 1
            work.task.cancel()

    def _failed_by_us(self, work: Work) -> bool:
        assert work.task is not None
        if not work.task.done():
            return self.hold.waiting
        return not work.task.cancelled() and (error := work.task.exception()) is not None and _is_ours(error)

    def _fail(self, place: str) -> None:
        """A request at ``place`` got no answer, and that is not the agent's doing: without one there, its trial cannot be judged."""
        if place not in self.unanswered:
            self.unanswered.add(place)
            self._try_write({"k": "unanswered", "places": sorted(self.unanswered)})

    def _answer(self, context: Context) -> None:
        if self.unanswered and (place := _place_of(context)) in self.unanswered:
            self.unanswered.remove(place)
            if self.closed is None:
                self._try_write({"k": "unanswered", "places": sorted(self.unanswered)})

    def _leave(self, ticket: Ticket) -> None:
        if ticket.turn is not None:
            self.delivering.discard(ticket.turn.id)
        if ticket.work is not None:
            ticket.work.clients -= 1

    def _seen(self, turn: Turn) -> None:
        if not turn.delivered:
            turn.delivered = True
            if self.closed is None:
                self._try_write({"k": "seen", "turn": turn.id})

    def _mark(self, what: str) -> None:
        if what not in self.marks:
            self.marks.add(what)
            self._try_write({"k": "mark", "what": what})
            self.parts.events.emit(f"gateway.{what}", session=self.id, trial=self.trial)

    def _turns_so_far(self) -> int:
        return turns_of_task(self.tree) + len(self.works)

    def _refuse_if_closed(self) -> None:
        if self.closed is not None:
            raise ApiError(401, "session_closed", "The session is closed.")

    def _refuse_if_suspended(self) -> None:
        if self.suspended and self.closed is None:
            raise SuspendedError


def _is_probe(request: ChatRequest) -> bool:
    """A request for a handful of tokens checks that the API answers; it is no turn of an agent."""
    return request.max_tokens is not None and request.max_tokens < _PROBE_TOKENS and not request.tools


def _is_ours(error: BaseException) -> bool:
    """Whether a client that meets this is answered by a status of 500 or more."""
    return not isinstance(error, ApiError) or error.status >= 500


def _place_of(context: Context) -> str:
    """A request's place in the session, the same in every process that serves it."""
    return f"{'' if context.parent is None else context.parent.id}:{context.key.hex()}"


def _look_at_error(task: asyncio.Task[Turn]) -> None:
    """A turn that fails with no client left would be reported by asyncio as never looked at; the client's retry starts it again."""
    if not task.cancelled():
        task.exception()
