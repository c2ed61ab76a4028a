"""From a `RunConfig` to what the processes of a run are given. Pure functions of the configuration and the run's paths.

- `environment_file`     the reference's environment variables, for shells and hooks; no secrets
- `runner_environment`   variables of the trial runner
- `process_environment`  variables of the trainer's processes (platform, engine, Ray, W&B); with secrets, so never written
- `verl_overrides`       verl's configuration as Hydra arguments, complete for CPU and GPU
- `agent_loop`           the file verl builds the agent loop from
- `trial_settings`       Harbor's trial configuration as far as the run decides it
- `ray_head`, `ray_join` commands that make a Ray cluster of several machines

`verl_keys` and `overrides_check` compare a user's `verl_overrides` with verl's own composed configuration; they start another interpreter
and are imported only where that is wanted.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from swerl.config.runconfig import RunConfig
from swerl.record.rundir import RunDir, write_atomic
from swerl.render.agent_loop import agent_loop
from swerl.render.environment import environment_file, process_environment, public_environment, runner_environment
from swerl.render.ray import ray_head, ray_join
from swerl.render.trial import trial_settings
from swerl.render.verl import reserved, verl_overrides

AGENT_LOOP_FILE = "agent_loop.yaml"


@dataclass(frozen=True, slots=True)
class Rendered:
    """Everything a start of the run is given, none of it secret."""

    environment_file: str
    environment: dict[str, str]
    runner_environment: dict[str, str]
    overrides: list[str]
    agent_loop: str
    trial: dict[str, Any]
    ray: dict[str, list[str]]


def render(config: RunConfig, run: RunDir) -> Rendered:
    """Deterministic: equal configurations and paths give equal text."""
    several = config.infrastructure.nnodes > 1
    return Rendered(
        environment_file=environment_file(config),
        environment=public_environment(config, run),
        runner_environment=runner_environment(config),
        overrides=verl_overrides(config, run),
        agent_loop=agent_loop(config, run),
        trial=trial_settings(config),
        ray={"head": ray_head(config, run), "join": ray_join(config)} if several else {},
    )


def write(rendered: Rendered, run: RunDir) -> list[Path]:
    """The rendered parts as files under ``render/`` of the run; each is replaced whole."""
    files = {
        "run.env": rendered.environment_file,
        "environment.json": _json({"trainer": rendered.environment, "runner": rendered.runner_environment}),
        "verl.overrides": "\n".join(rendered.overrides) + "\n",
        AGENT_LOOP_FILE: rendered.agent_loop,
        "trial.json": _json(rendered.trial),
    }
    if rendered.ray:
        files["ray.json"] = _json(rendered.ray)
    for name, text in files.items():
        write_atomic(run.render / name, text.encode(), mode=0o600)
    return [run.render / name for name in files]


def _json(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() + "\n"


__all__ = [
    "AGENT_LOOP_FILE",
    "Rendered",
    "agent_loop",
    "environment_file",
    "process_environment",
    "public_environment",
    "ray_head",
    "ray_join",
    "render",
    "reserved",
    "runner_environment",
    "trial_settings",
    "verl_overrides",
    "write",
]
