"""Family `resume`: what an earlier start of the run of this name left behind, against what is asked for now."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from swerl.config.schema import keys
from swerl.preflight.check import Check, Fact, Finding, NotApplicable
from swerl.preflight.context import Context
from swerl.record.checkpoints import directories, faults

# Restored with the optimizer and its schedule, whatever the configuration says now.
_RESTORED = ("algorithm.learning_rate", "training.lr_scheduler", "algorithm.lr_warmup_steps", "algorithm.weight_decay")
# An adapter is these and the weights it stands on: it is loaded with another alpha, or over other weights, as another policy.
_ADAPTERS = ("model.lora.rank", "model.lora.alpha", "model.lora.targets", "model.lora.exclude")
# A run that changes these is another experiment under the same name.
_IDENTITY = ("model.model_path", "data.train_index", "algorithm.adv_estimator", "algorithm.policy_loss_mode")


def checkpoints(ctx: Context) -> list[Path]:
    """Checkpoint directories of this run, newest first; not applicable where there is nothing to resume."""
    if ctx.cfg.training.resume == "never":
        raise NotApplicable("training.resume is never")
    found = directories(ctx.run_dir.checkpoints)[::-1]
    if not found:
        raise NotApplicable("nothing to resume")
    return found


class CheckpointVerifies(Check):
    id = "SWERL-P901"
    family = "resume"
    title = "checkpoint to resume from"
    asks = "the newest checkpoint is complete; if not, which one the run would resume from"
    remedy = "nothing, if that step is acceptable: the incomplete checkpoint is passed over"
    severity = "warning"
    live = True
    budget_s = 9.0

    def run(self, ctx: Context) -> Iterator[Finding]:
        for path in checkpoints(ctx):
            found = faults(path)
            if not found:
                yield Fact(path.name)
                return
            yield self.found(f"{path.name} is passed over: {found[0]}", str(path))
        yield self.found("no checkpoint of this run is complete: it would begin again", str(ctx.run_dir.checkpoints))


class RestoredSettings(Check):
    id = "SWERL-P902"
    family = "resume"
    title = "settings that a checkpoint restores"
    asks = "nothing was changed that the checkpoint brings back: optimizer and schedule are restored with their old values"
    remedy = "undo the change, or begin a new run: another experiment.exp_name with model.model_path at the checkpoint"
    faults = (42,)

    def run(self, ctx: Context) -> Iterator[Finding]:
        checkpoints(ctx)
        before = _resolved(ctx)
        now = ctx.cfg.as_dict()
        for key in _RESTORED:
            old, new = _get(before, key), _get(now, key)
            if old != new:
                yield self.found(f"{key} is {new}, the checkpoint restores {old}", ctx.source(key))
        rank = ctx.cfg.model.lora.rank
        for key in _ADAPTERS:
            old, new = _get(before, key), _get(now, key)
            if old != new and (rank if old is None else rank or _get(before, _ADAPTERS[0])):  # None: the run is older than the key
                yield self.found(f"{key} is {new}, the checkpoint was made with {old or keys()[key].default}", ctx.source(key))
        for key in _IDENTITY:
            old, new = _get(before, key), _get(now, key)
            if old != new:
                severity = "fatal" if rank and key == "model.model_path" else "warning"
                yield self.found(f"{key} is {new}, this run began with {old}", ctx.source(key), severity=severity)


class ShardsFit(Check):
    id = "SWERL-P903"
    family = "resume"
    title = "shards of the checkpoint"
    asks = "the checkpoint was written by as many ranks, and the same kind of FSDP, as this run has"
    remedy = "resume with the same number of GPUs and the same strategy, or merge the checkpoint and begin a new run from it"
    faults = (36,)

    def run(self, ctx: Context) -> Iterator[Finding]:
        newest = checkpoints(ctx)[0]
        record = newest / "actor" / "fsdp_config.json"
        if not record.is_file():
            raise NotApplicable(f"{newest.name} has no fsdp_config.json")
        saved = orjson.loads(record.read_bytes())
        if saved["world_size"] != ctx.gpus:
            yield self.found(f"{newest.name} was written by {saved['world_size']} rank(s), this run has {ctx.gpus}", str(record))
        strategy = next((str(v) for k, v in ctx.cfg.verl_overrides.items() if k.endswith("actor.strategy")), "fsdp2")
        version = {"fsdp": 1, "fsdp2": 2}.get(strategy)
        if version is not None and saved["FSDP_version"] != version:
            yield self.found(f"{newest.name} was written by FSDP{saved['FSDP_version']}, this run uses {strategy}", str(record))
        yield Fact(f"{saved['world_size']} rank(s), FSDP{saved['FSDP_version']}")


def _resolved(ctx: Context) -> dict[str, Any]:
    path = ctx.run_dir.resolved
    if not path.is_file():
        raise NotApplicable(f"{path} is missing")
    return orjson.loads(path.read_bytes())["config"]


def _get(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values


CHECKS = (CheckpointVerifies(), RestoredSettings(), ShardsFit())
