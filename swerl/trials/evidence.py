"""What an attempt of a trial left: `Attempt`, and how it is filled from what Harbor and the sandboxes say."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson
from harbor.models.trial.result import TrialResult as HarborResult
from harbor.trial.trial import Trial
from harbor.utils.trajectory_utils import load_model_usage_from_trajectory

from swerl.record.outcomes import Evidence
from swerl.trials.gateway import Closed
from swerl.trials.grading import ANSWER
from swerl.trials.sandboxes.gradable import Gradable
from swerl.trials.screening import Finding

READ_S = 60.0  # for what an agent's adapter makes of its logs


@dataclass(slots=True)
class Attempt:
    """What one attempt left. ``error`` is the first thing that went wrong, in words; ``phase`` how far it came."""

    evidence: Evidence = field(default_factory=Evidence)
    session: str | None = None
    phase: str = "session"
    turns: int = 0
    hold_s: float = 0.0
    setup_s: float = 0.0
    agent_s: float = 0.0
    verifier_s: float = 0.0
    error: str | None = None
    agent_began: float | None = None  # these three monotonic
    agent_ended: float | None = None
    closed_at: float = 0.0
    closed: Closed | None = None  # what the gateway said when the session ended
    host: str | None = None  # where the sandbox ran, for backends with more than one host
    verifier: Any = None
    failed: Exception | None = None  # what kept the work from a verdict, if that is not the agent's doing
    sound: bool = False  # the verdict is there, and nothing broke before it
    rewards: dict[str, float] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    info: dict[str, Any] = field(default_factory=dict)


def collect(trial: Trial, attempt: Attempt) -> None:
    """Fill the attempt with what Harbor and the sandboxes say of a trial that has ended."""
    result: HarborResult = trial.result
    agent, environment = trial.agent, trial.agent_environment
    broke = result.exception_info
    if attempt.failed is not None:
        kind, attempt.error = type(attempt.failed).__name__, f"{type(attempt.failed).__name__}: {attempt.failed}"[:2000]
    elif broke is not None:
        kind, attempt.error = broke.exception_type, f"{broke.exception_type}: {broke.exception_message}"[:2000]
    else:
        kind = None
    rewards = result.verifier_result.rewards if result.verifier_result else None
    stop = getattr(agent, "stop_reason", None)
    attempt.evidence = Evidence(
        exception=None if attempt.sound else kind,  # what breaks after a verdict does not change it
        rewards=rewards,
        hit_max_turns=stop == "max_turns",
        context_overflow=stop == "context_overflow",
        grading_disabled=trial.config.verifier.disable,
    )
    attempt.rewards = {key: float(value) for key, value in (rewards or {}).items()}
    attempt.setup_s = _span(result.environment_setup) + _span(result.agent_setup)
    attempt.agent_s, attempt.verifier_s = _span(result.agent_execution), _span(result.verifier)
    if stop:
        attempt.info["stop"] = stop
    answer = trial.paths.trial_dir / ANSWER
    findings = orjson.loads(answer.read_bytes())["findings"] if answer.is_file() else []
    if isinstance(environment, Gradable):
        attempt.host = environment.host
        findings += [Finding("left-running", line).as_dict() for line in environment.leftovers[:8]]
        findings += [Finding("link-outside", link).as_dict() for link in environment.refused_links[:8]]
        findings += [Finding("left-out", name).as_dict() for name in environment.left_out[:8]]
    findings += [finding.as_dict() for finding in attempt.findings[:8]]
    if kind == "SandboxExhausted" and attempt.agent_began is not None:
        findings.append(Finding("sandbox-exhausted", attempt.error or "").as_dict())
    if kind == "AgentTimeoutError":
        findings.append(Finding("agent-timeout", f"after {attempt.agent_s:.0f} s").as_dict())
    if findings:
        attempt.info["findings"] = findings[:48]


async def read_logs(trial: Trial, result: HarborResult, attempt: Attempt) -> None:
    """In the place of Harbor's own. What adapters make of an agent's logs is for people: no log can keep its work from being graded, or
    hold the loop."""
    await trial._download_agent_logs()
    try:
        await asyncio.wait_for(asyncio.to_thread(_read_logs, trial, result), READ_S)
    except Exception as error:
        attempt.findings.append(Finding("unreadable-log", f"{type(error).__name__}: {error}"))


def _read_logs(trial: Trial, result: HarborResult) -> None:
    """As Harbor's own, of the parts that a single agent has. Blocks."""
    trial._populate_agent_context(result.agent_result)
    if result.agent_result is not None and result.agent_result.model_usage is None:
        result.agent_result.model_usage = load_model_usage_from_trajectory(trial.agent.logs_dir / "trajectory.json")


def _span(timing: Any) -> float:
    start: datetime | None = timing.started_at if timing else None
    end: datetime | None = timing.finished_at if timing else None
    return (end - start).total_seconds() if start and end else 0.0
