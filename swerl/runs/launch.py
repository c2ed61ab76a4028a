"""From a configuration to a supervised run: the plan of the real processes, and the whole of ``swerl train`` below the command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from swerl.config import RunConfig
from swerl.config.schema import keys
from swerl.errors import fail
from swerl.facts.indexes import IndexUnreadable, row_count
from swerl.facts.memory import disk
from swerl.facts.plan import known_steps, plan_of
from swerl.facts.shape import ShapeError, read_shape
from swerl.record.registry import Run
from swerl.record.rundir import RunDir, read_json
from swerl.record.states import State
from swerl.render import process_environment, runner_environment
from swerl.runs import cluster
from swerl.runs.display import Display
from swerl.runs.feed import Sizes
from swerl.runs.plan import Plan, ProcessSpec
from swerl.runs.prepare import prepare
from swerl.runs.supervisor import Outcome, Supervisor
from swerl.runs.takeover import taken
from swerl.watch import Terms
from swerl.watch.notify import Notifier

TRAINER_GRACE_S = 20.0
_WEBHOOK = keys()["notify.webhook"].env


class Seal(Protocol):
    """Writes what a run's directory states about its files."""

    def __call__(self, run: RunDir, *, finished: float | None, outcome: str) -> object: ...


def plan_for(config: RunConfig, run: RunDir) -> Plan:
    """The processes of a real run. Secrets are in the trainer's environment only: gateway and runner serve agents.

    Raises SWERL-R018 when an environment is missing."""
    train = _python(config.environment.venv_path)
    trials = _python(config.environment.trials_venv_path)
    steps = known_steps(config)
    no_secrets: Mapping[str, str | None] = {key.env: None for key in keys().values() if key.secret and key.env}
    always = {"PYTHONUNBUFFERED": "1"}

    def spec(name: str, python: Path, module: str, env: Mapping[str, str | None], **rest) -> ProcessSpec:
        # -P: the directory a user happens to be in must not shadow a module
        argv = (str(python), "-P", "-m", module, "--run-dir", str(run.root))
        return ProcessSpec(name, argv, run.log_of(name), {**always, **env}, cwd=run.root, **rest)

    several = config.infrastructure.nnodes > 1 and not cluster.given_by_kubernetes(os.environ)
    joined = cluster.environment(config, run) if several else process_environment(config, run)
    ready_s = config.infrastructure.join_timeout_sec + cluster.CONNECT_S + cluster.CHECK_S
    ray = spec("cluster", train, "swerl.runs.cluster", joined, url_key="url", health_path="/", ready_timeout_s=ready_s)
    return Plan(
        services=(
            *((ray,) if several else ()),
            spec("gateway", train, "swerl.gateway", no_secrets, url_key="public_url", health_path="/health/liveliness"),
            spec("runner", trials, "swerl.trials", {**no_secrets, **runner_environment(config)}, url_key="url", health_path="/stats"),
        ),
        trainer=spec("trainer", train, "swerl.trainer", {_WEBHOOK: None, **joined, **_tracking(run)}, stop_grace_s=TRAINER_GRACE_S),
        total_steps=steps,
        sizes=_sizes(config),
        trainer_restarts=config.infrastructure.restarts,
        terms=Terms.of(config, total_steps=steps, checkpoint_bytes=_checkpoint_bytes(config)),
        notifier=Notifier.of(config),
    )


def _sizes(config: RunConfig) -> Sizes:
    """Nothing is known of a validation whose index cannot be read; preflight has said so."""
    training = config.training
    try:
        validation = row_count(config.data.val_index) * training.val_n
    except IndexUnreadable:
        validation = 0
    return Sizes(training.train_batch_size * training.n_resp_per_prompt, validation, config.harbor_runtime.num_workers, training.test_freq)


def _tracking(run: RunDir) -> dict[str, str]:
    """The name of the W&B run that the manifest promises for this start."""
    attempts = (read_json(run.manifest) or {}).get("attempts", ())
    id = attempts[-1].get("wandb_run_id") if attempts else None
    return {"WANDB_RUN_ID": id} if id else {}


def launch(
    config: RunConfig,
    display: Callable[[], Display],
    *,
    seal: Seal,
    fresh: bool = False,
    plan: Callable[[RunConfig, RunDir], Plan] = plan_for,
    notice: Callable[[str], None] = print,
) -> tuple[Run, Outcome | None]:
    """Run the configuration to its end, from wherever its run directory stands. The outcome is None when there was nothing left to do: the
    run is complete, and the configuration is the one it was completed with.

    ``fresh`` (or ``training.resume: never``) moves an earlier run of this name aside first. ``seal`` writes the run's statement when it is
    over. Raises what preparing can raise; how the run itself ended is in the outcome."""
    run = RunDir.at(config.run_dir)
    if fresh or config.training.resume == "never":
        aside = set_aside(run)
        if aside:
            notice(f"the earlier run of this name is now {aside}")
    with taken(run) as held:
        if held.swept:
            notice(f"an earlier start of this run left something: {held.swept}")
        before = held.before
        if before is not None and before.state == State.COMPLETED and before.config_digest == config.digest:
            return before, None
        prepared = held.registry.prepare(run.id, config.digest)
        prepare(config, run, attempt=prepared.attempt + 1, command=sys.argv)
        screen = display()
        try:
            outcome = Supervisor(run, held.registry, plan(config, run), screen).run()
        finally:
            screen.close()
        ended = held.registry.get(run.id)
        assert ended is not None
        _state(run, ended, seal, notice)
        return ended, outcome


def _state(run: RunDir, ended: Run, seal: Seal, notice: Callable[[str], None]) -> None:
    """The run's statement (``provenance.json``). The run is over and recorded: a full disk here is told and changes nothing of that."""
    try:
        seal(run, finished=ended.ended, outcome=str(ended.state))
    except OSError as error:
        notice(f"the run's statement could not be written: {error}")


def set_aside(run: RunDir) -> str | None:
    """Rename an existing run to ``<id>~<n>``, in the registry too, and return that name; None when there is none to move. A living run is
    refused (SWERL-R006)."""
    if not run.manifest.exists():
        return None
    with taken(run) as held:
        number = next(n for n in range(1, 1_000_000) if not run.root.with_name(f"{run.id}~{n}").exists())
        aside = f"{run.id}~{number}"
        run.root.rename(run.root.with_name(aside))
        if held.before is not None:
            held.registry.rename(run.id, aside)
        return aside


def _checkpoint_bytes(config: RunConfig) -> int | None:
    """What one save will need; None where the policy's shape cannot be read."""
    try:
        shape = read_shape(config.model.model_path / "config.json")
    except (OSError, ShapeError):
        return None
    return disk(shape, plan_of(config, steps=None, gpu_memory_bytes=None)).save_bytes


def _python(environment: Path) -> Path:
    python = environment / "bin" / "python"
    if not python.exists():
        raise fail("SWERL-R018", "there is no Python environment here", "make setup", where=str(environment))
    return python
