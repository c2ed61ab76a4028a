"""The nouns of the runner's interface: who a trial is, what was asked, what came of it. Frozen, and plain JSON at the border."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from swerl.errors import fail
from swerl.record.outcomes import Outcome

SPLITS = ("train", "val")


@dataclass(frozen=True, slots=True)
class Identity:
    """A trial of a run. Two requests with one identity are the same trial; ``version`` is checkpoint lineage and weights step."""

    split: str
    task_hash: str
    sample: int
    version: str

    @property
    def key(self) -> str:
        return f"{self.split}|{self.task_hash}|{self.sample}|{self.version}"

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.key.encode()).hexdigest()[:10]


@dataclass(frozen=True, slots=True)
class TrialRequest:
    """One call of POST /trials. ``step`` groups trials for budgets and the tail. ``epoch`` is the
    start of the trainer (1 for the first) that asks; ``anew``: what was settled for an earlier start is no answer."""

    identity: Identity
    task_dir: Path
    task_id: str
    step: int
    epoch: int = 0
    anew: bool = False

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> TrialRequest:
        """SwerlError SWERL-T001 names the field that is missing or of the wrong kind."""
        try:
            split, sample, step = body["split"], body["sample"], body["step"]
            epoch, anew = body.get("epoch", 0), body.get("anew", False)
            if split not in SPLITS:
                raise ValueError(f"split is {split!r}, not train or val")
            if not isinstance(anew, bool):
                raise ValueError(f"anew is {anew!r}, not true or false")
            for name, value in (("sample", sample), ("step", step), ("epoch", epoch)):
                if not isinstance(value, int) or isinstance(value, bool):
                    raise ValueError(f"{name} is {value!r}, not a whole number")
            for name in ("task_dir", "task_hash", "task_id", "version"):
                if not isinstance(body[name], str) or not body[name]:
                    raise ValueError(f"{name} is {body[name]!r}, not a text")
            task_dir = Path(body["task_dir"])
            if not task_dir.is_absolute():
                raise ValueError(f"task_dir {body['task_dir']!r} is not absolute")
        except KeyError as error:
            raise fail(
                "SWERL-T001", f"the request for a trial lacks {error.args[0]!r}", "send every field of the runner's interface"
            ) from error
        except ValueError as error:
            raise fail("SWERL-T001", f"the request for a trial is malformed: {error}", "send the field as the interface says") from error
        return cls(Identity(split, body["task_hash"], sample, body["version"]), task_dir, body["task_id"], step, epoch, anew)


@dataclass(frozen=True, slots=True)
class SetAside:
    """A task or a host that only failed. ``key`` is the task's content hash or the host's name, ``name`` what people call it, ``error`` its
    first failure; ``run_attempt`` the start of the run (1 for the first) in which it was set aside."""

    what: Literal["task", "host"]
    key: str
    name: str
    error: str
    run_attempt: int


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of the settling attempt, except ``queue_s`` and ``total_s``, which cover the whole trial. ``hold_s``: the engine was away."""

    queue_s: float = 0.0
    setup_s: float = 0.0
    agent_s: float = 0.0
    verifier_s: float = 0.0
    total_s: float = 0.0
    hold_s: float = 0.0


@dataclass(frozen=True, slots=True)
class TrialResult:
    """A settled trial. ``reward`` is None exactly when ``graded`` is False; a result that is not in the loss must be absent from it."""

    identity: Identity
    trial_name: str
    outcome: Outcome
    in_loss: bool
    graded: bool
    reward: float | None
    rewards: Mapping[str, float] = field(default_factory=dict)
    session: str | None = None
    attempts: int = 1
    timing: Timing = Timing()
    turns: int = 0
    error: str | None = None
    reused: bool = False
    info: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "outcome": self.outcome.value, "rewards": dict(self.rewards), "info": dict(self.info)}

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> TrialResult:
        return cls(
            **{
                **body,
                "identity": Identity(**body["identity"]),
                "outcome": Outcome(body["outcome"]),
                "timing": Timing(**body["timing"]),
            }
        )
