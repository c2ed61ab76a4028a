"""verl's trainers with the hooks a run of trials needs. Registered under verl's mode names by `task`.

What is added, and where verl calls it:

- ``on_sample_end``    the gateway pauses and acknowledges before the engine sleeps: no request meets a sleeping engine
- ``on_step_end``      after the weights: checkpoint retention, then the gateway resumes with the new version
- ``_validate``        ``swerl/val/*`` from the runner's journal: resolve rate with coverage and interval; ungraded is not 0
- ``logger``           a metrics row of ours per step, then the checkpoint's marker: in that order, see `checkpoints`
- ``on_step_begin``    a stop request ends the run between two steps, with a checkpoint
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from verl.trainer.ppo.v1.trainer_base import PPOTrainer
from verl.trainer.ppo.v1.trainer_colocate_async import PPOTrainerColocateAsync
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.workers.rollout.llm_server import LLMServerClient

from swerl.record import base, checkpoints
from swerl.record.client import Absent, Service
from swerl.record.events import EventLog
from swerl.record.lineage import current_lineage
from swerl.record.metrics import MetricsLog
from swerl.record.rundir import RunDir
from swerl.trainer import replay
from swerl.trainer.bridge import BridgeClient
from swerl.trainer.journal import TrialJournal
from swerl.trainer.paths import AllPaths


class StopRequested(Exception):
    """The run was asked to stop and has saved what it had."""


class RunHooks(PPOTrainer):
    """Mixed in before one of verl's trainers. ``config.swerl`` carries run directory, retention and the gateway's pause time."""

    def __init__(self, config: Any):
        self.run = RunDir.at(config.swerl.run_dir)
        self.lineage = current_lineage(self.run.lineage)
        self.events = EventLog(self.run.events_of("trainer"), "trainer")
        self.metrics_log = MetricsLog(self.run.metrics)
        source = RunDir.at(config.swerl.recorded) if config.swerl.recorded else self.run
        self.journal = TrialJournal(source.trials_journal)
        self.gateway = Absent() if config.swerl.recorded else Service(self.run.services, "gateway")
        self.trained_steps = 0
        self._compiled = {"count": 0.0, "seconds": 0.0}
        self._uncommitted: tuple[Path, int] | None = None
        self._logger: Any = None
        super().__init__(config)

    # Parts of verl that we replace

    def _build_replay_buffer(self) -> Any:
        return replay.build(self.config, self.trainer_mode, self._add_prompts_to_generate, self._resolve_filter_groups_metric())

    def get_llm_client(self) -> LLMServerClient:
        return self.llm_server_manager.get_client(client_cls=BridgeClient)

    @property
    def logger(self) -> Any:
        """verl's tracker; what is logged to it goes into the run's metrics first."""
        return self._logger

    @logger.setter
    def logger(self, tracking: Any) -> None:
        self._logger = _Recorded(tracking, self._record)

    # The gateway's engine

    def register_engine(self, bridge: dict[str, Any]) -> None:
        """Tell the gateway where its engine is and which weights it holds."""
        self.bridge = bridge
        self.gateway.call_now("POST", "/engine", {"kind": "bridge", **bridge, "version": self.global_steps})
        replicas = len(self.llm_server_manager.server_addresses)
        self.events.emit("engine.ready", step=self.global_steps, version=self.lineage.version(self.global_steps), replicas=replicas)

    def pause_engine(self, reason: str) -> None:
        began = time.monotonic()
        answer = self.gateway.call_now("POST", "/pause", {"reason": reason, "epoch": self.lineage.epoch}, timeout_s=None)
        self.events.emit("engine.paused", step=self.global_steps, reason=reason, pause_s=time.monotonic() - began, **answer)

    def resume_engine(self) -> None:
        self.gateway.call_now("POST", "/resume", {"version": self.global_steps, "epoch": self.lineage.epoch})
        self.events.emit("engine.resumed", step=self.global_steps, version=self.lineage.version(self.global_steps))

    # verl's hooks

    def on_step_begin(self) -> None:
        super().on_step_begin()
        last = self.config.swerl.last_step
        if self.run.stop_request.exists() or (last is not None and self.global_steps > last):
            self._stop()
        self.events.emit("step.begin", step=self.global_steps)

    def on_sample_end(self) -> None:
        self.pause_engine("update")
        super().on_sample_end()

    def on_step_end(self) -> None:
        super().on_step_end()
        self.trained_steps += 1
        self.resume_engine()

    def on_validate_begin(self) -> None:
        super().on_validate_begin()
        self.events.emit("validation.begin", step=self.global_steps)

    def on_validate_end(self) -> None:
        super().on_validate_end()
        self.events.emit("validation.end", step=self.global_steps)

    def _validate(self) -> dict[str, float]:
        expected = len(self.val_dataset) * self.config.actor_rollout_ref.rollout.val_kwargs.n
        return {**super()._validate(), **self.journal.validation_metrics(self.lineage.version(self.global_steps), expected)}

    def _compute_metrics(self, batch: Any, metrics: dict[str, Any], timing_raw: dict[str, float], global_steps: int, epoch: int) -> None:
        super()._compute_metrics(batch, metrics, timing_raw, global_steps, epoch)
        metrics.update(self.journal.training_metrics(self.lineage.version(global_steps - 1)))
        for name in ("count", "seconds"):  # the engine's running totals, see `engine`
            total = float(metrics.pop(f"actor/compiled_max/{name}"))
            metrics[f"swerl/compile/{name}"] = total - self._compiled[name]
            self._compiled[name] = total

    def _save_checkpoint(self) -> None:
        super()._save_checkpoint()
        if self.config.actor_rollout_ref.model.lora_rank > 0:
            folder = Path(self.config.trainer.default_local_dir) / f"global_step_{self.global_steps}" / "actor"
            base.write(folder, Path(self.config.actor_rollout_ref.model.path))
        self._uncommitted = (Path(self.config.trainer.default_local_dir) / f"global_step_{self.global_steps}", self.global_steps)

    # Records

    def _record(self, data: dict[str, Any], step: int) -> None:
        """The row of ``step``, then the checkpoint's marker, then retention."""
        self.metrics_log.append(step, self.lineage.name, data)
        if self._uncommitted is not None and self._uncommitted[1] == step:
            self._commit()
        self.events.emit("step.end", step=step, durable=True)

    def _commit(self) -> None:
        path, step = self._uncommitted
        checkpoint = checkpoints.commit(path, step, self.lineage.version(step))
        self._uncommitted = None
        gone = checkpoints.retain(path.parent, self.config.swerl.max_checkpoints)
        self.events.emit("checkpoint.committed", durable=True, step=step, version=checkpoint.version, deleted=[p.name for p in gone])

    def _stop(self) -> None:
        """Between two steps: save the step that is done unless it is saved, and leave the loop."""
        self.global_steps -= 1
        saved = (Path(self.config.trainer.default_local_dir) / f"global_step_{self.global_steps}" / checkpoints.MARKER).exists()
        if self.trained_steps and not saved:
            self._save_checkpoint()
            self._commit()
        self._shutdown_dump_executor()
        self.events.emit("run.stopped", durable=True, step=self.global_steps)
        raise StopRequested


class _Recorded:
    """A tracker that records each row before it passes it on."""

    def __init__(self, tracking: Any, record: Any):
        self._tracking, self._record = tracking, record

    def log(self, data: dict[str, Any], step: int) -> None:
        self._record(data, step)
        self._tracking.log(data=data, step=step)

    def finish(self, *args: Any, **kwargs: Any) -> None:
        self._tracking.finish(*args, **kwargs)


class SyncTrainer(RunHooks, PPOTrainerSync):
    """Collect, then train, then collect."""


class ColocateAsyncTrainer(RunHooks, PPOTrainerColocateAsync):
    """Trials go on across weight updates; their half-sampled turns are aborted and resumed by the gateway, version by version."""

    def get_llm_client(self) -> LLMServerClient:
        return RunHooks.get_llm_client(self)  # not verl's client, which hides aborted pieces and merges their versions


MODES = {"sync": SyncTrainer, "colocate_async": ColocateAsyncTrainer}


def trainer_class(mode: str, paths: str) -> type[RunHooks]:
    """The trainer for ``training.mode`` and ``capture.paths``."""
    base = MODES[mode]
    return base if paths == "main" else type(f"AllPaths{base.__name__}", (AllPaths, base), {})
