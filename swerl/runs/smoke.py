"""The smoke run: the user's own profile cut to 8 prompts of 4 samples and one step, and a verdict on what that step showed.

``cut`` says which keys differ from the profile; everything else (policy, agent, sandbox, engine, algorithm, limits) is the user's.
``gates`` read what the run wrote for readers (metrics, events, the checkpoint's size) and the forecast of the same configuration, and judge
each by itself. A smoke run keeps neither checkpoint nor trials of an earlier one.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from swerl.config import RunConfig
from swerl.facts.memory import GIB, Forecast, size
from swerl.record.checkpoints import directories
from swerl.record.events import read_events
from swerl.record.metrics import read_metrics
from swerl.record.rundir import RunDir
from swerl.runs.takeover import taken

PROMPTS, SAMPLES = 8, 4
SUFFIX = "-smoke"
SLACK = 1.25  # how far above the forecast a measured memory may be


@dataclass(frozen=True, slots=True)
class Gate:
    """One question with its answer. ``ok`` is None where it does not apply; ``remedy`` is for a gate that is not passed."""

    name: str
    ok: bool | None
    said: str
    remedy: str = ""


def cut(config: RunConfig) -> dict[str, str]:
    """Overrides (as ``--set`` takes them) that make the smoke run of a configuration. Prompts are more than 8 only where 32 trials do not
    divide over the GPUs."""
    gpus = config.infrastructure.nnodes * config.infrastructure.ngpus_per_node
    prompts = next(n for n in range(PROMPTS, PROMPTS * gpus + 1) if n * SAMPLES % gpus == 0)
    per_rank = prompts * SAMPLES // max(1, gpus // config.training.sp_size)
    micro = math.gcd(config.training.micro_batch_size_per_gpu, per_rank)
    sets: dict[str, Any] = {
        "experiment.exp_name": config.run_id + SUFFIX,
        "experiment.logger": '["console"]',
        "credentials.wandb_mode": "disabled",
        "training.train_batch_size": prompts,
        "training.train_prompt_mini_batch_size": prompts,
        "training.n_resp_per_prompt": SAMPLES,
        "training.micro_batch_size_per_gpu": micro,
        "training.log_prob_micro_batch_size_per_gpu": math.gcd(config.training.log_prob_micro_batch_size_per_gpu, per_rank),
        "training.total_steps": 1,
        "training.val_before_train": "false",
        "training.test_freq": -1,
        "training.save_freq": 1,
        "training.save_hf": "false",
        "training.lr_scheduler": "constant",  # a schedule over one step says nothing; preflight judges the profile's own
        "algorithm.lr_warmup_steps": 0,
        "algorithm.filter_groups.enable": "false",  # 32 trials of one kind must not be drawn again without end
        "harbor_runtime.num_workers": min(config.harbor_runtime.num_workers, prompts * SAMPLES),
        "harbor_runtime.tail_kill_target": 1.0,
    }
    return {key: str(value) for key, value in sets.items()}


def gates(run: RunDir, config: RunConfig, forecast: Forecast | None) -> list[Gate]:
    """What the one step showed. Empty metrics give one gate that is not passed."""
    row = next((row.data for row in read_metrics(run.metrics) if row.step == 1), None)
    if row is None:
        return [Gate("step", False, "no step was trained", "the run's own problem says why")]
    events = [event for path in run.events.glob("*.jsonl") for event in read_events(path)]
    return [*_learning(row, config), *_trials(row, config), *_memory(row, events, config, forecast), _checkpoint(run, forecast)]


def _learning(row: Mapping[str, Any], config: RunConfig) -> Iterable[Gate]:
    least = config.watch.correlation_min
    found = row.get("training/rollout_actor_probs_pearson_corr")
    yield Gate(
        "engine and trainer agree",
        None if found is None else found >= least,
        f"correlation {_number(found)}, wanted {least:g}",
        "a mixture needs router replay (SWERL-P108); else look at dtype, attention and whether weights reach the engine",
    )
    rate = row.get("actor/lr")
    yield Gate("learning rate", bool(rate), f"{_number(rate)}, wanted more than 0", "set algorithm.learning_rate")
    norm = row.get("actor/grad_norm")
    flat = row.get("critic/score/max") == row.get("critic/score/min")
    ok = bool(norm) and math.isfinite(norm)
    yield Gate("gradient", None if flat and norm == 0 else ok, f"norm {_number(norm)}, wanted a number above 0", "see SWERL-W104")


def _trials(row: Mapping[str, Any], config: RunConfig) -> Iterable[Gate]:
    best = row.get("critic/score/max") or 0.0
    yield Gate(
        "reward",
        best > 0,
        f"mean {_number(row.get('critic/score/mean'))}, best {_number(best)}, wanted at least one trial above 0",
        "swerl doctor proves that the verifier rewards the gold solution; if it does, the tasks are too hard for this policy: swerl data",
    )
    turns = row.get("num_turns/mean")
    yield Gate(
        "turns", bool(turns), f"mean {_number(turns)}, wanted more than 0", "the agent never reached the gateway: read a trial's log"
    )
    count, used = row.get("swerl/trials/count"), row.get("swerl/trials/in_loss")
    invalid = None if not count else 1 - used / count
    yield Gate(
        "trials with a verdict",
        None if invalid is None else invalid < config.watch.invalid_ratio_max,
        f"{used} of {count}, wanted more than {1 - config.watch.invalid_ratio_max:.0%}",
        "the trials' results are under trials/ of the run; see SWERL-W201",
    )


def _memory(row: Mapping[str, Any], events: list[dict[str, Any]], config: RunConfig, forecast: Forecast | None) -> Iterable[Gate]:
    trainer = row.get("actor/perf/max_memory_reserved_gb")
    wanted = None if forecast is None else forecast.trainer_process_bytes
    yield _against("trainer memory", None if trainer is None else trainer * GIB, wanted, "raise training.sp_size or lower the lengths")
    engine = max((event["engine_mb"] << 20 for event in events if event["kind"] == "run.memory" and event.get("engine_mb")), default=None)
    if config.infrastructure.device != "cpu":
        cards = [gpu for event in events if event["kind"] == "sample" for gpu in event.get("gpus") or ()]
        engine = max((gpu["memory_mb"] << 20 for gpu in cards), default=None)
    wanted = None if forecast is None else forecast.engine_process_bytes
    yield _against("engine memory", engine, wanted, "lower vllm.gpu_memory_utilization or vllm.kv_cache_gb")


def _checkpoint(run: RunDir, forecast: Forecast | None) -> Gate:
    """Nothing is estimated here: what was saved must be what was foreseen, give or take tokenizer and bookkeeping."""
    files = (file for folder in directories(run.checkpoints) for file in folder.rglob("*") if file.is_file())
    saved = sum(file.stat().st_size for file in files)
    if forecast is None or not saved:
        return Gate("checkpoint", None, f"{size(saved)} saved")
    wanted = forecast.disk.save_bytes
    ok = abs(saved - wanted) <= 0.1 * wanted + 32 * 2**20
    return Gate("checkpoint", ok, f"{size(saved)} saved, {size(wanted)} foreseen", "the forecast does not know this policy: report it")


def _against(name: str, measured: float | None, wanted: float | None, remedy: str) -> Gate:
    if measured is None or wanted is None:
        return Gate(name, None, "not measured" if measured is None else f"{size(measured)}, no forecast")
    return Gate(name, measured <= SLACK * wanted, f"{size(measured)} at the peak, {size(wanted)} foreseen", remedy)


def render(found: Iterable[Gate]) -> str:
    mark = {True: "ok  ", False: "FAIL", None: "-   "}
    lines = []
    for gate in found:
        lines.append(f"  {mark[gate.ok]} {gate.name:<25} {gate.said}")
        if gate.ok is False and gate.remedy:
            lines.append(f"       do: {gate.remedy}")
    return "\n".join(lines)


def remove(run: RunDir) -> None:
    """Remove an earlier smoke run, and only one: a living run is refused (SWERL-R006)."""
    if run.root.exists() and run.id.endswith(SUFFIX):
        with taken(run) as held:
            held.registry.forget(run.id)
            shutil.rmtree(run.root)


def remove_checkpoints(run: RunDir) -> None:
    """A smoke run's weights are of no use to anybody."""
    for path in directories(run.checkpoints):
        shutil.rmtree(path)


def _number(value: Any) -> str:
    return "none" if value is None else f"{value:.4g}"
