"""``python -m swerl.trainer --run-dir R``: continue the run in R from its newest checkpoint that verifies, or begin it.

Exit codes: 0 the run is complete, 1 it failed, 3 it was asked to stop and has saved, 4 the engine or another process of the training is
gone, and a new start may do better.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

from swerl.config import RunConfig, load_resolved
from swerl.errors import SwerlError, fail
from swerl.facts.plan import known_steps
from swerl.record import checkpoints
from swerl.record.checkpoints import Checkpoint
from swerl.record.events import EventLog
from swerl.record.lineage import open_lineage
from swerl.record.metrics import MetricsLog
from swerl.record.rundir import RunDir
from swerl.render import process_environment, verl_overrides

STOPPED = 3
LOST = 4
_LOSSES = frozenset({"SWERL-R111", "SWERL-R120", "SWERL-R121"})


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="swerl.trainer", description=__doc__)
    parser.add_argument("--run-dir", required=True, type=Path)
    parser.add_argument("--recorded", type=Path, help="Train from the recorded trials of the run in this directory; nothing is sampled.")
    parser.add_argument("--last-step", type=int, help="Stop, as on request, after this step.")
    given = parser.parse_args(argv)
    run = RunDir.at(given.run_dir)
    try:
        return train(run, given.recorded, given.last_step)
    except SwerlError as error:
        print(error, file=sys.stderr, flush=True)
        EventLog(run.events_of("trainer"), "trainer").emit("trainer.failed", durable=True, problems=[p.as_dict() for p in error.problems])
        return LOST if error.problems[0].id in _LOSSES else 1
    except Exception as error:  # told apart from an end without a word, as Ray's when its own processes die
        EventLog(run.events_of("trainer"), "trainer").emit("trainer.raised", durable=True, error=f"{type(error).__name__}: {error}"[:2000])
        raise


def train(run: RunDir, recorded: Path | None = None, last_step: int | None = None) -> int:
    config = load_resolved(run.resolved)
    os.environ.update(process_environment(config, run))  # before verl is imported: it reads its platform and plugins at import
    events = EventLog(run.events_of("trainer"), "trainer")
    restored, passed_over = checkpoints.newest(run.checkpoints)
    checkpoints.discard_uncommitted(run.checkpoints)
    lineage = open_lineage(run.lineage, restored)
    log = MetricsLog(run.metrics)
    if log.damaged is not None:
        events.emit("metrics.damaged", durable=True, **log.damaged.as_dict())
    metrics = log.resume(restored.step if restored else -1)
    events.emit(
        "trainer.start",
        durable=True,
        epoch=lineage.epoch,
        restored_step=lineage.base_step,
        restored_version=lineage.base_version,
        passed_over=passed_over,
        superseded_rows=metrics.superseded,
    )
    if recorded is None and nothing_left(config, restored):
        events.emit("trainer.end", durable=True, how="completed")
        return 0
    ours = {
        "paths": config.capture.paths,
        "serial": str(config.harbor_runtime.num_workers == 1).lower(),
        "recorded": "null" if recorded is None else f"'{recorded.absolute()}'",
        "last_step": "null" if last_step is None else last_step,
    }
    composed = compose([*verl_overrides(config, run), *(f"+swerl.{name}={value}" for name, value in ours.items())], restored)
    ended = launch(composed)
    events.emit("trainer.end", durable=True, how=ended)
    return {"completed": 0, "stopped": STOPPED}[ended]


def nothing_left(config: RunConfig, restored: Checkpoint | None) -> bool:
    """Whether the checkpoint is that of the run's last step: its row, validation included, was on disk before it counted, so a run that
    was killed after it is complete without loading anything."""
    steps = known_steps(config)
    return restored is not None and steps is not None and restored.step >= steps


def compose(overrides: list[str], restored: Checkpoint | None):
    """verl's configuration for this start: the rendered overrides, and where to resume from."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_module

    resume = ["trainer.resume_mode=disable"]
    if restored is not None:
        # the first validation is in the metrics already: a run validates before training once
        resume = ["trainer.resume_mode=resume_path", f"trainer.resume_from_path={restored.path}", "trainer.val_before_train=False"]
    with initialize_config_module("verl.trainer.config", version_base=None):
        return hydra_compose("ppo_trainer", overrides=[*overrides, *resume])


def launch(config) -> str:
    """Start Ray and run the task to its end."""
    import ray
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    from swerl.trainer.task import TrainerTask

    validate_config(config=config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config))
    start_ray(config)
    try:
        return ray.get(TrainerTask.remote().run.remote(config))
    except ray.exceptions.RayError as error:
        cause = cause_of(error)
        if isinstance(cause, SwerlError):
            raise cause from error
        if is_loss(cause):
            said = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
            remedy = "read the trainer's log for its last words; the run starts the trainer again from its newest checkpoint"
            raise fail("SWERL-R121", f"a process of the training is gone: {said}", remedy) from error
        raise
    finally:
        ray.shutdown()


def cause_of(error: BaseException) -> BaseException:
    """What was raised first, however many of Ray's tasks have passed it on."""
    from ray.exceptions import RayTaskError

    while isinstance(error, RayTaskError):
        error = error.cause
    return error


def is_loss(error: BaseException) -> bool:
    """Whether Ray says by it that a process is gone. An error of the code's own would come again in the next start."""
    from ray import exceptions as said

    gone = (
        said.RayActorError,
        said.WorkerCrashedError,
        said.NodeDiedError,
        said.ObjectLostError,
        said.RaySystemError,
        said.LocalRayletDiedError,
    )
    return isinstance(error, gone)


def start_ray(config) -> None:
    """verl's own way of starting Ray, without running its task. Ray starts workers through a shell and quotes all but the interpreter, so
    a path that needs it is handed over quoted."""
    import ray
    from omegaconf import OmegaConf
    from verl.trainer.constants_ppo import get_ppo_ray_runtime_env

    init = config.ray_kwargs.get("ray_init", {})
    defaults = get_ppo_ray_runtime_env(config)
    defaults.setdefault("env_vars", {})["TRANSFER_QUEUE_ENABLE"] = "1"
    runtime_env = OmegaConf.merge(defaults, init.get("runtime_env", {}))
    if runtime_env.get("py_executable") is None and (quoted := shlex.quote(sys.executable)) != sys.executable:
        runtime_env.py_executable = quoted
    ray.init(**OmegaConf.to_container(OmegaConf.create({**init, "runtime_env": runtime_env})))


if __name__ == "__main__":
    sys.exit(main())
