"""What can come of a trial, and what each outcome means: one table, and one function that finds the row.

| outcome | verdict kept | in the loss | retried | counts against |
|---|---|---|---|---|
| completed, max_turns | yes | yes | no | - |
| context_overflow | yes | unless `reward.overlong` is drop | no | - |
| agent_timeout | yes | only if `reward.timeout` is keep | no | - |
| agent_error | if graded | if graded | no | agent |
| verifier_timeout, env_failed, infra_failed | no | no | yes, in a fresh sandbox | infrastructure |
| tail_killed, cancelled | no | no | no | tail |

An agent that had no answer from the engine is `infra_failed` whatever it made of that: neither its exit nor its tests say anything of the
policy. `classify` reads exception *types*, never messages: Harbor records the type's name of what ended a phase. A type nobody has placed
ends in `infra_failed` with the name in the record, so that a new kind of failure is seen instead of trained on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Literal


class Outcome(StrEnum):
    COMPLETED = "completed"
    MAX_TURNS = "max_turns"
    CONTEXT_OVERFLOW = "context_overflow"
    AGENT_TIMEOUT = "agent_timeout"
    AGENT_ERROR = "agent_error"
    VERIFIER_TIMEOUT = "verifier_timeout"
    ENV_FAILED = "env_failed"
    INFRA_FAILED = "infra_failed"
    TAIL_KILLED = "tail_killed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Meaning:
    """One row of the table. ``in_loss`` may name the setting that decides."""

    verdict: Literal["yes", "if graded", "no"]
    in_loss: Literal["yes", "if graded", "reward.overlong", "reward.timeout", "no"]
    retried: bool
    against: Literal["nobody", "agent", "infrastructure", "tail"]


_GOOD = Meaning("yes", "yes", False, "nobody")
_BROKEN = Meaning("no", "no", True, "infrastructure")
_ENDED = Meaning("no", "no", False, "tail")
MEANING: Mapping[Outcome, Meaning] = MappingProxyType(
    {
        Outcome.COMPLETED: _GOOD,
        Outcome.MAX_TURNS: _GOOD,
        Outcome.CONTEXT_OVERFLOW: Meaning("yes", "reward.overlong", False, "nobody"),
        Outcome.AGENT_TIMEOUT: Meaning("yes", "reward.timeout", False, "nobody"),
        Outcome.AGENT_ERROR: Meaning("if graded", "if graded", False, "agent"),
        Outcome.VERIFIER_TIMEOUT: _BROKEN,
        Outcome.ENV_FAILED: _BROKEN,
        Outcome.INFRA_FAILED: _BROKEN,
        Outcome.TAIL_KILLED: _ENDED,
        Outcome.CANCELLED: _ENDED,
    }
)

# Exception type names, by what they say. Harbor's own names, our sandbox's, and those that litellm lets escape from host-process agents.
ENDED_BY: Mapping[Outcome, frozenset[str]] = MappingProxyType(
    {
        Outcome.CONTEXT_OVERFLOW: frozenset(
            {
                "ContextWindowExceededError",
                "ContextLengthExceededError",
                "OutputTokenExceededError",
                "OutputLengthExceededError",
            }
        ),
        Outcome.AGENT_TIMEOUT: frozenset({"AgentTimeoutError"}),
        Outcome.AGENT_ERROR: frozenset(
            {
                "NonZeroAgentExitCodeError",
                "AgentSafetyRefusalError",
                "ContentPolicyViolationError",
                "AgentProtocolError",
                "SandboxExhausted",
            }
        ),
        Outcome.VERIFIER_TIMEOUT: frozenset({"VerifierTimeoutError"}),
        Outcome.ENV_FAILED: frozenset(
            {
                "EnvironmentStartTimeoutError",
                "SandboxBuildFailedError",
                "SandboxStartFailed",
                "HealthcheckError",
                "AgentSetupTimeoutError",
                "AddTestsDirError",
                "DownloadVerifierDirError",
                "RewardFileNotFoundError",
                "RewardFileEmptyError",
                "VerifierOutputParseError",
                "GradingSandboxFailed",
                "ImagePullFailed",
                "PodNotStarted",
                "ContainerNotStarted",
                "SwerlError",  # the task asks for what this sandbox cannot do
            }
        ),
        Outcome.CANCELLED: frozenset({"CancelledError"}),
    }
)
_OUTCOME_OF: Mapping[str, Outcome] = MappingProxyType({name: outcome for outcome, names in ENDED_BY.items() for name in names})

# The agent brought its own sandbox down: that is a verdict of nothing done, not a failure of ours. An agent must gain nothing by it.
FORFEITS = frozenset({"SandboxExhausted"})


@dataclass(frozen=True, slots=True)
class Evidence:
    """What an attempt left to judge by. ``exception`` is a type name; ``rewards`` the verifier's numbers, None when it gave none."""

    exception: str | None = None
    rewards: Mapping[str, float] | None = None
    hit_max_turns: bool = False
    context_overflow: bool = False
    ended_by: Outcome | None = None  # TAIL_KILLED or CANCELLED when the runner ended it, AGENT_TIMEOUT when its own clock did
    grading_disabled: bool = False
    before_agent: bool = False  # it ended while the sandbox or the agent was set up, so the agent has done nothing
    unanswered: bool = False  # the agent had no answer to a request because of us, as the gateway or its absence says


@dataclass(frozen=True, slots=True)
class Judgement:
    outcome: Outcome
    graded: bool
    reward: float | None
    in_loss: bool


class RewardMissing(Exception):
    """The verifier gave numbers, but not the one that `reward.key` names."""


def classify(evidence: Evidence) -> Outcome:
    if evidence.ended_by is not None and evidence.ended_by is not Outcome.AGENT_TIMEOUT:
        return evidence.ended_by
    if evidence.unanswered:
        return Outcome.INFRA_FAILED
    if evidence.ended_by is not None:
        return evidence.ended_by
    if evidence.exception is not None:
        outcome = _OUTCOME_OF.get(evidence.exception, Outcome.INFRA_FAILED)
        if outcome is Outcome.CANCELLED:  # nobody of ours ended it
            return Outcome.INFRA_FAILED
        if outcome is Outcome.AGENT_ERROR and evidence.before_agent:
            return Outcome.ENV_FAILED
        return outcome
    if evidence.context_overflow:
        return Outcome.CONTEXT_OVERFLOW
    if evidence.rewards is None and not evidence.grading_disabled:
        return Outcome.INFRA_FAILED
    return Outcome.MAX_TURNS if evidence.hit_max_turns else Outcome.COMPLETED


def judge(evidence: Evidence, reward_key: str, overlong: str, timeout: str) -> Judgement:
    """The outcome with its verdict. RewardMissing when the verifier's numbers lack ``reward_key``."""
    outcome = classify(evidence)
    meaning = MEANING[outcome]
    rewards = evidence.rewards
    if rewards is None and evidence.exception in FORFEITS:
        rewards = {reward_key: 0.0}
    graded = meaning.verdict != "no" and rewards is not None
    if graded and rewards is not None and reward_key not in rewards:
        raise RewardMissing(f"the verifier gave {sorted(rewards)}, not {reward_key!r}")
    in_loss = (
        graded
        and {
            "yes": True,
            "if graded": True,
            "no": False,
            "reward.overlong": overlong == "keep",
            "reward.timeout": timeout == "keep",
        }[meaning.in_loss]
    )
    return Judgement(outcome, graded, float(rewards[reward_key]) if graded and rewards is not None else None, in_loss)
