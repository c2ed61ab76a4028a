"""A made run: the files that processes of a run leave, from a seed, in the forms of their writers. For tests and the dashboard's benchmark.

The numbers are invented but hang together: tasks have difficulties, the policy improves, groups without a difference give no signal, some
trials fail, are cut by the tail-killer or run into the clock.
``python benchmarks/dashboard/made_run.py DIR [--steps N] [--tasks N] [--samples N]``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from swerl.record.model import Identity, Timing, TrialResult
from swerl.record.outcomes import Outcome
from swerl.record.rundir import RunDir

FAMILIES = ("wrong-operator", "off-by-one", "missing-negation", "swapped-args", "wrong-constant", "null-check")
START = 1_790_000_000.0
PHASES = ("queue_s", "setup_s", "agent_s", "verifier_s", "hold_s", "total_s")


@dataclass(frozen=True, slots=True)
class Shape:
    """``tasks`` times ``samples`` trials a step; a validation of ``val_tasks`` every ``val_every`` steps."""

    steps: int = 200
    tasks: int = 64
    samples: int = 8
    pool: int = 400
    val_tasks: int = 32
    val_every: int = 20
    seed: int = 1


def make(root: Path, shape: Shape) -> RunDir:
    """Write the run into ``root``, which must not exist yet."""
    run = RunDir.at(root)
    run.create()
    rng = random.Random(shape.seed)
    difficulty = {f"task-{i:04d}-{FAMILIES[i % len(FAMILIES)]}": rng.uniform(-2.5, 2.5) for i in range(shape.pool)}
    with (
        run.trials_journal.open("wb") as journal,
        run.events_of("runner").open("wb") as runner,
        run.events_of("trainer").open("wb") as trainer,
        run.events_of("gateway").open("wb") as gateway,
        run.events_of("supervisor").open("wb") as supervisor,
        run.metrics.open("wb") as metrics,
    ):
        files = {"runner": runner, "trainer": trainer, "gateway": gateway, "supervisor": supervisor}

        def say(source: str, time: float, kind: str, **fields: Any) -> None:
            files[source].write(orjson.dumps({"time": time, "source": source, "kind": kind, **fields}) + b"\n")

        now = START
        say("supervisor", now, "run.running")
        say("trainer", now + 1, "trainer.start", epoch=1, restored_step=0, restored_version="init:0", passed_over=[], superseded_rows=0)
        for step in range(1, shape.steps + 1):
            now = _step(rng, shape, step, now, difficulty, journal, metrics, say)
    run.lineage.write_bytes(orjson.dumps([{"epoch": 1, "base_step": 0, "base_version": "init:0", "time": START}]))
    _head(run, shape)
    return run


def _step(rng, shape, step, now, difficulty, journal, metrics, say) -> float:
    skill = 2.2 * (1 - math.exp(-3 * step / shape.steps)) - 0.8
    version = "init:0" if step == 1 else f"L1:{step - 1}"
    say("trainer", now, "step.begin", step=step)
    names = sorted(difficulty)
    longest, sampled, rewards = 0.0, 0, []
    for task in rng.sample(names, shape.tasks):
        for sample in range(shape.samples):
            result = _trial(rng, "train", task, sample, step, version, skill - difficulty[task])
            _write(journal, say, now, step, task, result)
            longest = max(longest, result.timing.total_s)
            sampled += result.info.get("usage", {}).get("sampled_tokens", 0)
            if result.reward is not None:
                rewards.append(result.reward)
            if result.outcome is Outcome.TAIL_KILLED:
                ran_s = round(result.timing.agent_s, 1)
                say("runner", now + result.timing.total_s, "tail.killed", step=step, trial=result.identity.key, ran_s=ran_s,
                    group_decided=rng.random() < 0.7, done=shape.tasks * shape.samples - 9)  # fmt: skip
    gen = longest + rng.uniform(2, 6)
    update, sync = rng.uniform(180, 220), rng.uniform(6, 9)
    for i in range(0, int(gen), 30):
        share = 1 - i / gen
        say(
            "gateway",
            now + i,
            "gateway.stats",
            sessions=int(512 * share),
            working=int(96 * share),
            waiting=int(40 * share),
            in_flight=int(96 * share),
        )
        say("supervisor", now + i, "engine.rates", running=round(96 * share), waiting=round(20 * share), kv_cache=round(0.9 * share, 3),
            prefix_hits=0.86, prompt_tokens_s=round(90_000 * share), generated_tokens_s=round(6_000 * share))  # fmt: skip
        say("supervisor", now + i, "host.sample", cpu=round(0.2 + 0.5 * share, 3), memory_used_mb=410_000,
            run_memory_mb=380_000, disk_free_gb=900 - step,
            gpu_busy=round(0.3 + 0.6 * share, 3), gpu_memory=0.86)  # fmt: skip
    done = now + gen
    say("trainer", done, "engine.paused", step=step, reason="update", pause_s=0.4, paused=True, aborted=0)
    data = {
        "critic/score/mean": sum(rewards) / len(rewards),
        "actor/entropy": 0.42 * math.exp(-step / shape.steps) + rng.gauss(0, 0.01),
        "actor/ppo_kl": abs(rng.gauss(3e-4, 1e-4)),
        "actor/pg_clipfrac": abs(rng.gauss(0.004, 0.001)),
        "actor/grad_norm": abs(rng.gauss(0.12, 0.02)),
        "actor/lr": 1e-6,
        "training/rollout_actor_probs_pearson_corr": 1 - abs(rng.gauss(6e-4, 2e-4)),
        "response_length/mean": 21_000 + 40 * step + rng.gauss(0, 500),
        "num_turns/mean": 38 + rng.gauss(0, 2),
        "perf/mfu/actor": 0.34 + rng.gauss(0, 0.01),
        "timing_s/gen": gen,
        "timing_s/update_actor": update,
        "timing_s/update_weights": sync,
        "timing_s/step": gen + update + sync,
        **{f"made/metric_{i:03d}": rng.gauss(0, 1) for i in range(120)},
    }
    done += update + sync
    say("trainer", done, "engine.resumed", step=step, version=f"L1:{step}")
    if step % shape.val_every == 0:
        say("trainer", done, "validation.begin", step=step)
        names = sorted(difficulty)[: shape.val_tasks]
        for task in names:
            for sample in range(4):
                result = _trial(rng, "val", task, sample, step, f"L1:{step}", skill - difficulty[task] + 0.3)
                _write(journal, say, done, step, task, result)
        data["timing_s/testing"] = 1500.0
        done += 1500
        say("trainer", done, "validation.end", step=step)
    metrics.write(orjson.dumps({"step": step, "lineage": "L1", "data": data}) + b"\n")
    if step % 5 == 0:
        deleted = [f"global_step_{step - 15}"] if step > 15 else []
        say("trainer", done, "checkpoint.committed", step=step, version=f"L1:{step}", deleted=deleted)
    say("trainer", done, "step.end", step=step)
    return done


def _trial(rng, split, task, sample, step, version, ease) -> TrialResult:
    identity = Identity(split, "sha256:" + hashlib.sha256(task.encode()).hexdigest(), sample, version)
    name = f"{split}-{task}-s{sample}-{identity.digest}-1"
    luck = rng.random()
    outcome = Outcome.COMPLETED
    if luck < 0.012:
        outcome = Outcome.INFRA_FAILED
    elif luck < 0.02 and split == "train":
        outcome = Outcome.TAIL_KILLED
    elif luck < 0.05:
        outcome = Outcome.AGENT_TIMEOUT
    elif luck < 0.09:
        outcome = Outcome.MAX_TURNS
    graded = outcome not in (Outcome.INFRA_FAILED, Outcome.TAIL_KILLED)
    resolved = graded and outcome is Outcome.COMPLETED and rng.random() < 1 / (1 + math.exp(-2 * ease))
    turns = max(2, int(rng.gauss(38, 14)))
    agent_s = min(2400.0, rng.lognormvariate(6.2, 0.55))
    model_s = agent_s * rng.uniform(0.45, 0.75)
    queue_s, setup_s, verifier_s = rng.uniform(0, 120), rng.uniform(8, 30), rng.uniform(5, 60)
    times = {"queue_s": queue_s, "setup_s": setup_s, "agent_s": agent_s, "verifier_s": verifier_s, "hold_s": 0.0}
    info: dict[str, Any] = {"task_id": task, "step": step, "phase": "verifier"}
    info["usage"] = {
        "model_s": round(model_s, 3),
        "prompt_tokens": turns * 14_000,
        "cached_tokens": turns * 12_000,
        "sampled_tokens": turns * 420,
    }
    if rng.random() < 0.004:
        info["findings"] = [{"kind": "tried-history", "path": "git log --all -p"}]
    return TrialResult(
        identity=identity,
        trial_name=name,
        outcome=outcome,
        in_loss=graded and outcome is not Outcome.AGENT_TIMEOUT,
        graded=graded,
        reward=float(resolved) if graded else None,
        rewards={"reward": float(resolved)} if graded else {},
        session=hashlib.sha256(name.encode()).hexdigest()[:32],
        timing=Timing(**{key: round(value, 3) for key, value in times.items()}, total_s=round(sum(times.values()), 3)),
        turns=turns,
        error="SandboxStartFailed: the sandbox did not come up" if outcome is Outcome.INFRA_FAILED else None,
        info=info,
    )


def _write(journal, say, now, step, task, result: TrialResult) -> None:
    who, timing = result.identity, result.timing
    identity = {"split": who.split, "task_hash": who.task_hash, "sample": who.sample, "version": who.version}
    journal.write(orjson.dumps({"kind": "attempt", "identity": identity, "attempt": 1, "trial_name": result.trial_name}) + b"\n")
    journal.write(orjson.dumps({"kind": "settled", "result": result.as_dict()}) + b"\n")
    say("runner", now + timing.queue_s, "trial.started", step=step, trial=result.trial_name, task=task, split=who.split, attempt=1)
    told = {name: getattr(timing, name) for name in PHASES}
    say("runner", now + timing.total_s, "trial.settled", step=step, trial=result.trial_name, **identity, outcome=result.outcome.value,
        in_loss=result.in_loss, reward=result.reward, turns=result.turns, attempts=1, session=result.session,
        **told, error=result.error)  # fmt: skip
    for finding in result.info.get("findings", ()):
        say("runner", now + timing.total_s, "trial.finding", step=step, trial=result.trial_name, what=finding["kind"], path=finding["path"])


def _head(run: RunDir, shape: Shape) -> None:
    """Manifest, resolved configuration and logs."""
    from swerl.config.schema import defaults

    values = defaults()
    values["experiment"]["exp_name"] = run.id
    values["experiment"]["trials_dir"] = str(run.trials / "made")
    values["training"]["total_steps"] = shape.steps
    values["harbor_runtime"]["num_workers"] = 96
    values["harbor_runtime"]["tail_kill_target"] = 0.95
    resolved = {"format": 1, "file": "config.yaml", "profile": None, "base_dir": "/", "digest": "0" * 64,
                "config": values,
                "source": {"training.total_steps": "config.yaml:90:3"}}  # fmt: skip
    run.resolved.write_text(json.dumps(resolved))
    attempt = {
        "attempt": 1,
        "started": START,
        "command": ["swerl", "train"],
        "source": {"commit": "0123456789abcdef0123456789abcdef01234567", "dirty": False},
        "versions": {"train": {"verl": "0.9.1", "vllm": "0.24.0", "torch": "2.11.0"}, "trials": {"harbor": "0.26.0"}},
        "host": {"name": "made", "cpus": 128, "memory_mb": 1_000_000, "gpus": ["NVIDIA H100 80GB HBM3, 81559 MiB, 580.1"] * 8},
    }
    run.manifest.write_text(json.dumps({"run": run.id, "project": "made", "attempts": [attempt]}))
    run.trainer_log.write_text("".join(_log_lines(shape)))


def _log_lines(shape: Shape) -> Iterator[str]:
    for step in range(1, shape.steps + 1):
        yield f"(TaskRunner pid=4242) step:{step} - timing_s/step:{step * 1.5:.1f}\n"
        if step % 50 == 0:
            yield f"WARNING step {step}: a warning that is made up\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("directory", type=Path)
    for name in ("steps", "tasks", "samples", "seed"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Shape(), name))
    given = parser.parse_args()
    shape = Shape(steps=given.steps, tasks=given.tasks, samples=given.samples, seed=given.seed, pool=max(400, given.tasks))
    run = make(given.directory, shape)
    print(f"{shape.steps} steps, {shape.steps * shape.tasks * shape.samples} training trials in {run.root}")


if __name__ == "__main__":
    main()
