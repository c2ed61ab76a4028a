"""A run done again, and whether the same numbers came out.

``recorded``: trains again from the trials that the run recorded. Nothing is sampled, so the numbers depend on code, environment and machine
alone, and on the CPU they are the same bit for bit.
``live``: the same configuration from nothing. Bit for bit on the CPU where one trial runs at a time (``harbor_runtime.num_workers: 1``);
trials side by side share batches of the engine, and their numbers spread.

Both refuse, by name, what is not as it was: a difference is accepted only when it is named with ``accept``. The new run is called
``<run>.recorded`` or ``<run>.live`` and lies beside the old one; a former reproduction of that name is moved aside.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from swerl.artifacts import compare
from swerl.artifacts.compare import Difference
from swerl.config import RunConfig, load, load_resolved
from swerl.config.schema import PROJECT_ROOT
from swerl.errors import Problem, SwerlError, fail
from swerl.record.checkpoints import committed, step_of
from swerl.record.metrics import read_metrics
from swerl.record.rundir import RunDir, read_json
from swerl.runs.plan import Plan
from swerl.runs.prepare import source_state
from swerl.runs.situation import situation

Mode = Literal["recorded", "live"]


@dataclass(frozen=True, slots=True)
class Result:
    """``exact`` says whether bit-for-bit equality was to be expected; ``differences`` are those of numbers and weights."""

    run: RunDir
    steps: int
    numbers: int
    tensors: int
    exact: bool
    differences: tuple[Difference, ...]
    accepted: tuple[Difference, ...] = field(default=())


def differences(run: RunDir, mode: Mode) -> list[Difference]:
    """What is not as it was when the run's last attempt began."""
    config = load_resolved(run.resolved)
    attempt = read_json(run.manifest)["attempts"][-1]
    if "situation" not in attempt:
        raise fail("SWERL-A020", f"the manifest of {run.id} does not say what it was made from", "train it anew", str(run.manifest))
    then = {**attempt["situation"], "source": _source(attempt["source"])}
    now = {**situation(config), "source": _source(source_state(PROJECT_ROOT))}
    return compare.situations(then, now, compare.RECORDED if mode == "recorded" else compare.LIVE)


def reproduce(
    run: RunDir,
    mode: Mode,
    *,
    carry_out: Callable[..., Any],
    notice: Callable[[str], None],
    steps: int | None = None,
    accept: Sequence[str] = (),
) -> Result:
    """Do it again and compare. ``carry_out(config, plan=...)`` trains (``swerl.runs.launch``). SWERL-A021 names the differences that forbid
    it, SWERL-A022 a run that has nothing to compare, SWERL-A023 one whose way of training cannot be repeated from recordings."""
    found = differences(run, mode)
    refused = [d for d in found if not any(d.name == name or d.name.startswith(f"{name}.") for name in accept)]
    if refused:
        remedy = "bring it back to what it was, or accept it: --accept NAME"
        raise SwerlError(*(Problem("SWERL-A021", str(d), remedy, str(run.manifest)) for d in refused))
    config = load_resolved(run.resolved)
    rows = read_metrics(run.metrics)
    last = max((row.step for row in rows if row.step > 0), default=0)
    if last == 0 or (steps is not None and steps > last):
        remedy = "name a run that has trained, and no more steps than it has"
        raise fail("SWERL-A022", f"{run.id} trained {last} steps", remedy, str(run.metrics))
    if mode == "recorded" and config.training.mode != "sync":
        message = f"training.mode is {config.training.mode}: which trials meet in a batch depends on the clock"
        raise fail("SWERL-A023", message, "reproduce a run of mode sync", str(run.resolved))
    again = renamed(run, config, f"{run.id}.{mode}")
    stop_after = steps or last
    notice(f"{run.id} again, {mode}, {stop_after} steps, as {again.run_id}")
    carry_out(again, plan=_plan_of(run, mode, stop_after if stop_after < _total(config, last) else None))
    new = RunDir.at(again.run_dir)
    tensors, gaps = 0, []
    for step in sorted(_steps(run) & _steps(new)):
        unequal, count = compare.weights(*(r.checkpoints / f"global_step_{step}" for r in (run, new)))
        tensors, gaps = tensors + count, [*gaps, *unequal]
    unlike = compare.metrics(rows, read_metrics(new.metrics), stop_after)
    exact = config.infrastructure.device == "cpu" and (mode == "recorded" or config.harbor_runtime.num_workers == 1)
    return Result(new, stop_after, compare.compared(rows, stop_after), tensors, exact, (*unlike, *gaps), tuple(found))


def renamed(run: RunDir, config: RunConfig, name: str) -> RunConfig:
    """The run's own snapshot under another name: places below its directory follow, everything else stays."""
    new_root = run.root.with_name(name)
    moved = {
        key: str(new_root / path.relative_to(run.root))
        for key, path in {
            "experiment.trials_dir": config.experiment.trials_dir,
            "harbor_runtime.sandbox.work_dir": config.harbor_runtime.sandbox.work_dir,
        }.items()
        if path.is_relative_to(run.root)
    }
    return load(run.config_snapshot, None, {"experiment.exp_name": name, **moved})


def _plan_of(source: RunDir, mode: Mode, last_step: int | None) -> Callable[[RunConfig, RunDir], Plan]:
    def plan(config: RunConfig, run: RunDir) -> Plan:
        from swerl.runs.launch import plan_for

        whole = plan_for(config, run)
        words = [*whole.trainer.argv]
        words += ["--recorded", str(source.root)] if mode == "recorded" else []
        words += ["--last-step", str(last_step)] if last_step is not None else []
        trainer = dataclasses.replace(whole.trainer, argv=tuple(words))
        return dataclasses.replace(whole, trainer=trainer, services=() if mode == "recorded" else whole.services)

    return plan


def _source(state: dict[str, Any]) -> dict[str, Any]:
    """Commit and changes; files that are not tracked count by content, through ``dirty_sha256``."""
    return {key: state[key] for key in ("commit", "dirty_sha256")}


def _steps(run: RunDir) -> set[int]:
    return {step_of(path) for path in committed(run.checkpoints)}


def _total(config: RunConfig, last: int) -> int:
    return config.training.total_steps or last
