"""Everything about a run as one value: the sections of `swerl.config.sections`, its secrets, and where each value came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from swerl.config.sections import (
    Algorithm,
    Capture,
    Credentials,
    Data,
    Environment,
    Experiment,
    Gateway,
    HarborAgent,
    HarborRuntime,
    Infrastructure,
    K8s,
    Model,
    Notify,
    Reward,
    Training,
    Vllm,
    Watch,
)


@dataclass(frozen=True, slots=True)
class Secrets:
    """What must reach no log, file or sandbox. ``repr`` shows which are set, never their text."""

    wandb_api_key: str = ""
    webhook: str = ""

    def __repr__(self) -> str:
        return f"Secrets({', '.join(f'{f.name}={"set" if getattr(self, f.name) else "unset"}' for f in fields(self))})"

    def values(self) -> tuple[str, ...]:
        """The texts to redact wherever they turn up."""
        return tuple(v for v in (self.wandb_api_key, self.webhook) if v)


@dataclass(frozen=True, slots=True)
class RunConfig:
    """Everything about a run, resolved.

    ``source`` says for every key where its value came from: a place in a file, ``--set``, ``environment NAME``, ``auto`` or ``default``.
    ``digest`` is the SHA-256 of the resolved values without secrets; two configurations with one digest start the same run.
    """

    model: Model
    data: Data
    infrastructure: Infrastructure
    environment: Environment
    k8s: K8s
    harbor_agent: HarborAgent
    harbor_runtime: HarborRuntime
    experiment: Experiment
    credentials: Credentials
    vllm: Vllm
    training: Training
    algorithm: Algorithm
    reward: Reward
    capture: Capture
    gateway: Gateway
    watch: Watch
    notify: Notify
    verl_overrides: Mapping[str, Any]
    secrets: Secrets
    source: Mapping[str, str]
    digest: str
    file: Path
    profile: str | None
    base_dir: Path

    @property
    def run_id(self) -> str:
        return self.experiment.exp_name

    @property
    def run_dir(self) -> Path:
        return self.experiment.runs_dir / self.experiment.exp_name

    def as_dict(self) -> dict[str, Any]:
        """The resolved values as plain JSON data, in the schema's order, without secrets."""
        return {name: plain(getattr(self, name)) for name in SECTIONS}


SECTIONS: tuple[str, ...] = tuple(
    f.name for f in fields(RunConfig) if f.name not in {"secrets", "source", "digest", "file", "profile", "base_dir"}
)


def plain(value: Any) -> Any:
    """Resolved values as plain JSON data."""
    if is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple | list):
        return [plain(v) for v in value]
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    return value
