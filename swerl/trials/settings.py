"""What the runner needs to know, as plain data; `settings_from` takes it out of a run's configuration."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from swerl.config import RunConfig

GRADING = "swerl.trials.grading:FreshVerifier"


@dataclass(frozen=True, slots=True)
class Sampling:
    """Decoding of one split, told to the gateway when a session opens. ``max_tokens`` bounds one answer; None leaves it to the window."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Tail:
    """The tail-killer (`tail`): off at ``target`` 1.0."""

    target: float = 1.0
    grace_s: float = 180.0
    min_trials: int = 32


@dataclass(frozen=True, slots=True)
class RunnerSettings:
    """``harbor`` is Harbor's TrialConfig as far as the run decides it (see swerl.render.trial); ``sandbox`` the keyword arguments that our
    own sandbox gets besides. ``max_attempts`` counts the first. ``retry_budget`` is retries a step may spend per trial of the step.
    ``warm_pool`` is how many waiting trials have their sandbox ready.
    ``run_attempt`` counts the starts of the run by its user; a later one tries hosts again, and tasks too under ``retry_quarantined``.
    ``step_trials`` are the trials of a training step, ``group_size`` those of one prompt."""

    run_dir: Path
    trials_dir: Path
    harbor: Mapping[str, Any]
    sandbox: Mapping[str, Any] = field(default_factory=dict)
    num_workers: int = 16
    warm_pool: int = 0
    max_attempts: int = 2
    retry_budget: float = 0.25
    hard_timeout_s: float = 4500.0
    max_turns: int = 100
    step_trials: int = 64
    group_size: int = 8
    tail: Tail = Tail()
    train: Sampling = Sampling()
    val: Sampling = Sampling()
    seed: int = 1
    reward_key: str = "reward"
    overlong: Literal["keep", "drop"] = "keep"
    timeout: Literal["drop", "keep"] = "drop"
    breaker_failures: int = 8
    run_attempt: int = 1
    retry_quarantined: bool = False

    @property
    def journal_path(self) -> Path:
        return self.run_dir / "trials" / "journal.jsonl"

    @property
    def sessions_dir(self) -> Path:
        """Where the gateway keeps the journals of its sessions."""
        return self.run_dir / "gateway" / "sessions"

    @property
    def events_path(self) -> Path:
        return self.run_dir / "events" / "runner.jsonl"

    @property
    def services_path(self) -> Path:
        return self.run_dir / "services.json"

    @property
    def run_tag(self) -> str:
        return run_tag(self.run_dir)


def run_tag(run_dir: Path) -> str:
    """Label of everything of this run that outlives a process: short, and different for runs of one name in different places."""
    return hashlib.sha256(os.fsencode(os.path.realpath(run_dir))).hexdigest()[:12]


def settings_from(cfg: RunConfig, run_dir: Path) -> RunnerSettings:
    from swerl.render.trial import trial_settings

    runtime, algorithm, training = cfg.harbor_runtime, cfg.algorithm, cfg.training
    sampled = algorithm.val_do_sample
    return RunnerSettings(
        run_dir=run_dir,
        trials_dir=cfg.experiment.trials_dir,
        harbor=trial_settings(cfg),
        sandbox={
            "network": runtime.sandbox.network,
            "rootfs": None if runtime.sandbox.rootfs is None else str(runtime.sandbox.rootfs),
            "work_dir": str(runtime.sandbox.work_dir),
            "limits": {
                "processes": runtime.sandbox.max_processes,
                "file_mb": runtime.sandbox.max_file_mb,
                "disk_mb": runtime.sandbox.disk_mb,
            },
        },
        num_workers=runtime.num_workers,
        warm_pool=runtime.warm_pool,
        max_attempts=cfg.harbor_agent.max_retries,
        retry_budget=runtime.retry_budget,
        hard_timeout_s=float(runtime.trial_hard_timeout_sec),
        max_turns=cfg.harbor_agent.max_iterations,
        step_trials=training.train_batch_size * training.n_resp_per_prompt,
        group_size=training.n_resp_per_prompt,
        tail=Tail(runtime.tail_kill_target, float(runtime.tail_kill_grace_sec), runtime.tail_kill_min_tasks),
        train=Sampling(algorithm.temperature, algorithm.top_p, algorithm.top_k),
        val=Sampling(
            algorithm.val_temperature if sampled else 0.0, algorithm.val_top_p if sampled else 1.0, algorithm.val_top_k if sampled else -1
        ),
        seed=cfg.data.seed,
        reward_key=cfg.reward.key,
        overlong=cfg.reward.overlong,
        timeout=cfg.reward.timeout,
        run_attempt=run_attempt(run_dir),
        retry_quarantined=runtime.retry_quarantined,
    )


def run_attempt(run_dir: Path) -> int:
    """Which start of the run this is, by its manifest; 1 where there is none."""
    from swerl.record.rundir import RunDir, read_json

    manifest = read_json(RunDir.at(run_dir).manifest) or {}
    return max((entry["attempt"] for entry in manifest.get("attempts", ())), default=1)
