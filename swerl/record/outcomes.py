"""What can come of a trial, and what each outcome means: one table, and one function that finds the row.

| outcome | verdict kept | in the loss | retried | counts against |
|---|---|---|---|---|
| completed, max_turns | yes | yes | no | - |
| context_overflow | yes | unless `reward.overlong` is drop | no | - |
| agent_timeout | yes | only if `reward.timeout` is keep | no | - |
| agent_error | yes | yes | no | agent |
| verifier_timeout, env_failed, infra_failed | no | no | yes, in a fresh sandbox | infrastructure |
| tail_killed, cancelled | no | no | no | tail |

Whose doing a failure is follows from its phase and from what is known outside of the sandbox, never from what came out of it, so that an
agent cannot choose to be absent:

| phase | evidence | whose doing |
|---|---|---|
| any | a request had no answer from the engine (the gateway says so); a type in `OURS` | ours |
| setup: before the agent began | - | ours |
| agent: from there until its work was taken out | a type in `IN_TURN` | as it says |
| agent | any other, and the policy has said nothing yet | ours |
| agent | any other | the agent's, whatever broke |
| grading | the same tests give a verdict on the untouched task (`swerl.trials.blame`) | the tested code's: a verdict of 0, no failure |
| grading | they do not, or their sandbox does not start | the task's or ours |

`classify` reads exception *types*, never messages: Harbor records the type's name of what ended a phase. An agent's failure without a
verdict is a verdict of 0.
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

    verdict: Literal["yes", "no"]
    in_loss: Literal["yes", "reward.overlong", "reward.timeout", "no"]
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
        Outcome.AGENT_ERROR: Meaning("yes", "yes", False, "agent"),
        Outcome.VERIFIER_TIMEOUT: _BROKEN,
        Outcome.ENV_FAILED: _BROKEN,
        Outcome.INFRA_FAILED: _BROKEN,
        Outcome.TAIL_KILLED: _ENDED,
        Outcome.CANCELLED: _ENDED,
    }
)

Phase = Literal["setup", "agent", "grading"]

# Exception types that something outside of every sandbox vouches for: the kernel of its host, an engine, a cluster, the gateway.
OURS = frozenset(
    {
        "SandboxKilled",
        "HostFailed",
        "EngineAway",
        "ClusterAway",
        "PodGone",
        "SessionClosed",
        "GatewayUnreachable",
        "GatewayRefused",
        "CancelledError",  # and nobody of ours ended it
    }
)

# What an agent's turn ended by, of types that say more than that it broke. Harbor's names, and those that litellm lets escape from agents
# in the runner's process.
IN_TURN: Mapping[Outcome, frozenset[str]] = MappingProxyType(
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
    }
)

# What keeps a trial from being set up or graded.
OUT_OF_TURN: Mapping[Outcome, frozenset[str]] = MappingProxyType(
    {
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
                "NoNumber",
                "GradingSandboxFailed",
                "ImagePullFailed",
                "PodNotStarted",
                "ContainerNotStarted",
                "SwerlError",  # the task asks for what this sandbox cannot do
                "SandboxExhausted",  # no agent has been in it
                "NonZeroAgentExitCodeError",
            }
        ),
    }
)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What an attempt left to judge by. ``exception`` is a type name, and ``phase`` where it was raised; ``spoke`` whether the policy had
    said anything; ``rewards`` the verifier's numbers, None when it gave none."""

    exception: str | None = None
    rewards: Mapping[str, float] | None = None
    hit_max_turns: bool = False
    context_overflow: bool = False
    ended_by: Outcome | None = None  # TAIL_KILLED or CANCELLED when the runner ended it, AGENT_TIMEOUT when its own clock did
    grading_disabled: bool = False
    unanswered: bool = False  # the agent had no answer to a request because of us, as the gateway or its absence says
    phase: Phase = "setup"
    spoke: bool = True


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
        return _blame(evidence.exception, evidence.phase, evidence.spoke)
    if evidence.context_overflow:
        return Outcome.CONTEXT_OVERFLOW
    if evidence.rewards is None and not evidence.grading_disabled:
        return Outcome.INFRA_FAILED
    return Outcome.MAX_TURNS if evidence.hit_max_turns else Outcome.COMPLETED


def _blame(exception: str, phase: Phase, spoke: bool) -> Outcome:
    if exception in OURS:
        return Outcome.INFRA_FAILED
    table = IN_TURN if phase == "agent" else OUT_OF_TURN
    otherwise = Outcome.AGENT_ERROR if phase == "agent" and spoke else Outcome.INFRA_FAILED
    return next((outcome for outcome, names in table.items() if exception in names), otherwise)


def judge(evidence: Evidence, reward_key: str, overlong: str, timeout: str) -> Judgement:
    """The outcome with its verdict. RewardMissing when the verifier's numbers lack ``reward_key``."""
    outcome = classify(evidence)
    meaning = MEANING[outcome]
    rewards = evidence.rewards
    if rewards is None and outcome is Outcome.AGENT_ERROR and not evidence.grading_disabled:
        rewards = {reward_key: 0.0}  # it left nothing to grade, and must gain nothing by that
    graded = meaning.verdict != "no" and rewards is not None
    if graded and rewards is not None and reward_key not in rewards:
        raise RewardMissing(f"the verifier gave {sorted(rewards)}, not {reward_key!r}")
    in_loss = (
        graded
        and {
            "yes": True,
            "no": False,
            "reward.overlong": overlong == "keep",
            "reward.timeout": timeout == "keep",
        }[meaning.in_loss]
    )
    return Judgement(outcome, graded, float(rewards[reward_key]) if graded and rewards is not None else None, in_loss)
