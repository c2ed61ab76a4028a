"""Where a run stands: the registry's row, what is alive, what the metrics and events say. Reads only."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import psutil

from swerl.record.events import read_events
from swerl.record.memory import used_mb
from swerl.record.metrics import Row, damaged_rows, read_metrics
from swerl.record.pace import RECENT_STEPS, recent_step_s, validation_s
from swerl.record.pace import left_s as rest_s
from swerl.record.quarantined import quarantined
from swerl.record.registry import OwnedProcess, Registry, Run
from swerl.record.rundir import RunDir, read_json
from swerl.record.states import LIVE
from swerl.record.words import duration
from swerl.runs.feed import RESOLVE_RATE

REWARDS = ("critic/score/mean", "critic/rewards/mean")
# Events of other processes that a person wants to see beside the watchdog's alarms.
TROUBLES = frozenset(
    (
        *("process.died", "breaker.open", "task.quarantined", "host.quarantined"),
        *("group.failed", "trainer.failed", "notify.failed", "metrics.damaged"),
    )
)
SHOWN_ALARMS = 5
SILENT_S = 60.0
RATE_S = 600.0


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """One process of the plan, as recorded and as it is. ``doing`` is what it does now, in words, from its newest events."""

    name: str
    pid: int
    alive: bool
    memory_mb: int
    since: float
    doing: str


@dataclass(frozen=True, slots=True)
class RunStatus:
    """Everything the status verb shows. ``resolve_rates`` are (step, rate) of the validations, oldest first; ``beat_s`` is how long ago the
    supervisor last said that it lives; ``set_aside`` are tasks and hosts that only failed; rates are of the last steps of this attempt."""

    run: Run
    root: str
    processes: tuple[ProcessStatus, ...]
    last_step: int | None
    reward: float | None
    step_s: float | None
    left_s: float | None
    trials_per_hour: float | None
    tokens_per_s: float | None
    beat_s: float | None
    resolve_rates: tuple[tuple[int, float], ...]
    peak_memory_mb: int | None
    doing: str
    alarms: tuple[str, ...]
    set_aside: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def status_of(run: RunDir, registry: Registry) -> RunStatus:
    """Raises AssertionError for a run without a row: ask the registry first."""
    row = registry.get(run.id)
    assert row is not None, f"run {run.id} has no row"
    rows = read_metrics(run.metrics)
    events = sorted((e for path in run.events.glob("*.jsonl") for e in read_events(path)), key=lambda e: e["time"])
    trained = [r for r in rows if r.step >= 1]
    last = trained[-1] if trained else None
    step_s = recent_step_s({r.step: float(r.data["timing_s/step"]) for r in trained if r.data.get("timing_s/step") is not None})
    live = row.state in LIVE
    left_s = None
    if live and last is not None:
        every = int(((read_json(run.resolved) or {}).get("config") or {}).get("training", {}).get("test_freq") or 0)
        left_s = rest_s(last.step, row.total_steps, step_s, every, validation_s(events))
    since = row.started or 0.0
    sample = next((e for e in reversed(events) if e["kind"] == "sample" and e["time"] >= since), {}) if live else {}
    return RunStatus(
        run=row,
        root=str(run.root),
        processes=tuple(_process(p, doing_of(p.name, events, sample) if live else "") for p in registry.processes(run.id)),
        last_step=rows[-1].step if rows else None,
        reward=_first(last.data, REWARDS) if last else None,
        step_s=step_s,
        left_s=left_s,
        trials_per_hour=_trials_per_hour(trained),
        tokens_per_s=_tokens_per_s([e for e in events if e["kind"] == "sample" and e["time"] >= since]),
        beat_s=max(0.0, time.time() - row.heartbeat) if live and row.heartbeat else None,
        resolve_rates=tuple((r.step, float(r.data[RESOLVE_RATE])) for r in rows if r.data.get(RESOLVE_RATE) is not None),
        peak_memory_mb=peak_memory_mb(events),
        doing=_doing(events) if live else "",
        alarms=(*alarms_of([e for e in events if e["time"] >= since]), *_damage(run)),
        set_aside=tuple(f"{a.what} {a.name}: {a.error[:160]}" for a in quarantined(events)),
    )


def _damage(run: RunDir) -> tuple[str, ...]:
    found = damaged_rows(run.metrics)
    return () if found is None else (f"{found.id} {found.message}",)


def one_screen(status: RunStatus) -> str:
    """The status of one run as text."""
    run, now = status.run, time.time()
    lines = [f"run {run.id}: {run.state}" + (f", {status.doing}" if status.doing else "")]
    if run.problem:
        lines.append(f"  problem    {run.problem}")
    total = f" of {run.total_steps}" if run.total_steps else ""
    lines.append(f"  step       {status.last_step if status.last_step is not None else 'none yet'}{total}")
    if status.step_s is not None:
        left = f", about {duration(status.left_s)} left" if status.left_s is not None else ""
        rates = [f"{status.step_s:.1f} s a step (the last {RECENT_STEPS})"]
        rates += [f"{status.trials_per_hour:,.0f} trials an hour"] if status.trials_per_hour else []
        rates += [f"{status.tokens_per_s:,.0f} tokens/s sampled"] if status.tokens_per_s else []
        lines.append(f"  rate       {', '.join(rates)}{left}")
    if status.reward is not None:
        lines.append(f"  reward     {status.reward:.3f} (mean of the last step)")
    if status.resolve_rates:
        lines.append("  resolved   " + ", ".join(f"{rate:.3f} at step {step}" for step, rate in status.resolve_rates[-5:]))
    if run.started:
        end = run.ended if run.ended and run.state not in LIVE else now
        lines.append(f"  time       {duration(end - run.started)} in attempt {run.attempt}")
    if status.peak_memory_mb is not None:
        lines.append(f"  memory     {status.peak_memory_mb} MB at the most")
    for process in status.processes:
        state = f"alive for {duration(now - process.since)}, {process.memory_mb} MB" if process.alive else "gone"
        lines.append(f"  {process.name:<10} pid {process.pid}, {state}" + (f": {process.doing}" if process.alive and process.doing else ""))
    if status.beat_s is not None and status.beat_s > SILENT_S:
        lines.append(f"  supervisor gave no sign of life for {duration(status.beat_s)}")
    lines += [f"  alarm      {alarm}" for alarm in status.alarms[-SHOWN_ALARMS:]]
    if len(status.alarms) > SHOWN_ALARMS:
        lines.append(f"             and {len(status.alarms) - SHOWN_ALARMS} earlier ones: swerl status {run.id} --json")
    lines += [f"  set aside  {what}" for what in status.set_aside[:SHOWN_ALARMS]]
    if len(status.set_aside) > SHOWN_ALARMS:
        lines.append(f"             and {len(status.set_aside) - SHOWN_ALARMS} more: swerl status {run.id} --json")
    lines.append(f"  directory  {status.root}")
    return "\n".join(lines)


def table(runs: Iterable[Run]) -> str:
    """All runs, one line each."""
    lines = [f"{'run':<28} {'state':<12} {'step':>11} {'attempt':>7}  started"]
    for run in runs:
        step = f"{run.step or 0}/{run.total_steps or '?'}"
        started = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.started)) if run.started else "-"
        lines.append(f"{run.id:<28} {run.state:<12} {step:>11} {run.attempt:>7}  {started}")
    return "\n".join(lines)


def peak_memory_mb(events: Iterable[dict[str, Any]]) -> int | None:
    """The most memory that all processes of the run used at one time, over all attempts; None before the first look."""
    return max((event["peak_mb"] for event in events if event["kind"] == "run.memory"), default=None)


def _process(process: OwnedProcess, doing: str) -> ProcessStatus:
    """Memory is of the process and its descendants: the trainer's is in its Ray workers."""
    pid, alive, memory = process.ref.pid, process.ref.alive(), 0
    if alive:
        try:
            parent = psutil.Process(pid)
            memory = used_mb([pid, *(child.pid for child in parent.children(recursive=True))])
        except psutil.NoSuchProcess:
            alive = False
    return ProcessStatus(process.name, pid, alive, memory, process.started, doing)


def _trials_per_hour(rows: list[Row]) -> float | None:
    """Trials of the last steps over the time of those steps."""
    recent = [row.data for row in rows[-RECENT_STEPS:] if row.data.get("timing_s/step") and row.data.get("swerl/trials/count")]
    seconds = sum(float(data["timing_s/step"]) for data in recent)
    return 3600 * sum(float(data["swerl/trials/count"]) for data in recent) / seconds if seconds else None


def _tokens_per_s(samples: list[dict[str, Any]]) -> float | None:
    """Sampled tokens over the last ten minutes, engine's absences included; None until two looks are a minute apart."""
    seen = [(s["time"], s["gateway"]["sampled_tokens"]) for s in samples if s.get("gateway", {}).get("sampled_tokens") is not None]
    recent = [(at, tokens) for at, tokens in seen if at >= seen[-1][0] - RATE_S]
    if len(recent) < 2 or recent[-1][0] - recent[0][0] < 60 or recent[-1][1] < recent[0][1]:
        return None
    return (recent[-1][1] - recent[0][1]) / (recent[-1][0] - recent[0][0])


def _first(data: Any, names: tuple[str, ...]) -> float | None:
    return next((float(data[name]) for name in names if data.get(name) is not None), None)


def _doing(events: list[dict[str, Any]]) -> str:
    """The newest thing the trainer or supervisor began."""
    for event in reversed(events):
        told = _DOING.get(event["kind"])
        if told:
            return told.format_map(event)
    return ""


def doing_of(name: str, events: list[dict[str, Any]], sample: dict[str, Any]) -> str:
    """What a process does now: the trainer's newest phase and its age; of the services what they answered last."""
    if name == "trainer":
        newest = next((e for e in reversed(events) if e["source"] == "trainer" and e["kind"] in _DOING), None)
        return "" if newest is None else f"{_DOING[newest['kind']].format_map(newest)} for {duration(time.time() - newest['time'])}"
    stats = sample.get(name, {})
    if stats.get("answers") is False:
        return "gives no answer"
    return ", ".join(f"{stats[key]:,} {word}" for key, word in _COUNTS.get(name, {}).items() if key in stats)


def alarms_of(events: list[dict[str, Any]]) -> tuple[str, ...]:
    """The watchdog's alarms, newest state of each, and other processes' troubles, in the order of their times."""
    cleared = {event["id"]: event["time"] for event in events if event["kind"] == "alarm.cleared"}
    found = []
    for event in events:
        at = time.strftime("%H:%M:%S", time.localtime(event["time"]))
        if event["kind"] == "alarm.raised":
            step = "" if event["step"] is None else f"step {event['step']}: "
            over = " (over)" if cleared.get(event["id"], 0.0) > event["time"] else ""
            found.append(f"{at} {event['id']} [{event['action']}] {step}{event['message']}{over}")
        elif event["kind"] in TROUBLES:
            found.append(_trouble(at, event))
    return tuple(found)


def _trouble(at: str, event: dict[str, Any]) -> str:
    detail = event.get("message") or event.get("cause") or event.get("how") or event.get("error") or ""
    subject = event.get("process") or event.get("task") or event.get("host") or ""
    return " ".join(filter(None, (at, event["kind"], str(subject), str(detail)[:200])))


# What of a service's newest answer is shown, and in which words.
_COUNTS = {
    "gateway": {"sessions": "sessions", "in_flight": "requests in the engine", "waiting": "waiting"},
    "runner": {"running": "trials running", "queued": "queued"},
}
_DOING = {
    "run.running": "starting its services",
    "trainer.start": "loading the trainer",
    "engine.ready": "sampling trials",
    "engine.resumed": "sampling trials",
    "engine.paused": "updating the policy",
    "validation.begin": "validating",
    "step.begin": "step {step}",
    "run.stopping": "stopping ({mode})",
}
