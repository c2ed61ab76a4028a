"""One trial, seen from the trainer: ask the runner, read the recording from the gateway, return rows with their reward.

This is the class that the agent-loop file names (``_target_``); verl's worker holds one instance and calls `run` for every session of a
group. The row's ``extra_info`` carries ``task_path`` (relative to its index), ``task_hash``, ``task_id``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swerl.errors import fail
from swerl.record.client import Service
from swerl.trainer.rows import Row, RowLimits, rows_of

RewardFunction = Callable[[Mapping[str, Any]], float]


@dataclass(frozen=True, slots=True)
class Session:
    """A settled trial. ``rows`` is empty when the trial is absent from the loss; ``reward`` is None when it has no verdict."""

    result: Mapping[str, Any]
    rows: list[Row]
    reward: float | None
    extra: dict[str, Any] = field(default_factory=dict)


class TrialRollout:
    """Runs trials for one agent-loop worker.

    ``services`` is the run's services.json; ``index_dirs`` maps a split to the directory its index lies in; ``reward_fn`` is
    ``module:function`` and turns a trial result into a reward (None keeps the verifier's number).
    """

    def __init__(
        self,
        services: str,
        index_dirs: Mapping[str, str],
        max_prompt_length: int,
        max_response_length: int,
        overlong: str = "keep",
        paths: str = "main",
        reward_fn: str | None = None,
        name: str = "swerl",
    ):
        self.name, self.epoch = name, 0  # the start of the trainer that asks; its worker sets it
        self.index_dirs = {split: Path(path) for split, path in index_dirs.items()}
        self.limits = RowLimits(max_prompt_length, max_response_length, overlong, paths)  # type: ignore[arg-type]
        self.runner = Service(Path(services), "runner")
        self.gateway = Service(Path(services), "gateway")
        self.reward_fn = load_reward_function(reward_fn) if reward_fn else None

    async def run(self, *, split: str, extra_info: Mapping[str, Any], sample: int, version: str, step: int, anew: bool = False) -> Session:
        """Run or re-use the trial with this identity; ``anew`` does not re-use what an earlier start settled. Raises SwerlError when a
        service stays away or breaks its contract."""
        request = {
            "split": split,
            "task_dir": str((self.index_dirs[split] / extra_info["task_path"]).resolve()),
            "task_hash": extra_info["task_hash"],
            "task_id": extra_info["task_id"],
            "sample": sample,
            "version": version,
            "step": step,
            "epoch": self.epoch,
            "anew": anew,
        }
        result = await self._settle(request)
        if not result["graded"] or result["session"] is None:
            return Session(result, [], None)
        reward = float(result["reward"]) if self.reward_fn is None else float(self.reward_fn(result))
        extra = {"acc": float(result["reward"]), **{f"verifier_{key}": float(value) for key, value in result["rewards"].items()}}
        if split == "train" and not result["in_loss"]:
            return Session(result, [], reward, extra)
        return Session(result, rows_of(await self._recording(result["session"]), self.limits), reward, extra)

    async def _settle(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """The runner's result, as long as it takes."""
        return await self.runner.call("POST", "/trials", request, timeout_s=None)

    async def _recording(self, session: str) -> Mapping[str, Any]:
        return await self.gateway.call("GET", f"/sessions/{session}/recording?paths={self.limits.paths}")

    async def close(self) -> None:
        await self.runner.close()
        await self.gateway.close()


def load_reward_function(reference: str) -> RewardFunction:
    """The function that ``module:function`` names. Raises SwerlError SWERL-R110 when it does not exist."""
    module, _, name = reference.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise fail("SWERL-R110", f"reward.fn {reference!r} cannot be loaded: {error}", "name it as module:function, importable") from error
    if not callable(function):
        raise fail("SWERL-R110", f"reward.fn {reference!r} is not a function", "name it as module:function, importable")
    return function
