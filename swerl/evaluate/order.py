"""What was asked for: one JSON file in the run directory, written by the command, read by the processes of the evaluation."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import orjson

from swerl.record.rundir import RunDir, read_json, write_json

if TYPE_CHECKING:
    from swerl.config import RunConfig

NAME = "order.json"


@dataclass(frozen=True, slots=True)
class Order:
    """``index`` is absolute; ``tasks`` 0 means all of it, else so many, spread evenly; ``samples`` attempts of each. ``above`` and
    ``below`` bound the solved share of tasks that `infer` keeps. ``engine_port`` is where the vLLM server of this evaluation listens;
    ``upstream`` an OpenAI-compatible server in its place, asked for ``upstream_model``."""

    mode: Literal["eval", "infer"]
    policy: str
    version: str
    index: str
    index_sha256: str
    tasks: int
    samples: int
    above: float = 0.0
    below: float = 1.0
    engine_port: int = 0
    upstream: str | None = None
    upstream_model: str | None = None

    @property
    def digest(self) -> str:
        """Of what decides the results: equal orders have equal answers. Where the engine listens does not count."""
        return hashlib.sha256(orjson.dumps({**asdict(self), "engine_port": 0})).hexdigest()[:16]

    def write(self, run: RunDir) -> None:
        write_json(run.root / NAME, asdict(self))


def read(run: RunDir) -> Order | None:
    body: dict[str, Any] | None = read_json(run.root / NAME)
    return None if body is None else Order(**body)


def size(mode: str, config: RunConfig, tasks: int | None, samples: int | None) -> tuple[int, int]:
    """(tasks, attempts at each) of an order: what was asked for, else what the configuration says. 0 tasks are all of the index."""
    if mode == "eval":
        return tasks or 0, samples or config.training.val_n
    data = config.data
    return data.infer_tasks if tasks is None else tasks, samples or data.infer_attempts or config.training.n_resp_per_prompt


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
