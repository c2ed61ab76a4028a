"""What a supervisor starts: plain data, so that a test can hand it stand-in programs and production the real ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from swerl.runs.feed import Sizes
from swerl.watch.notify import Notifier
from swerl.watch.terms import Terms


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """One process. ``env`` is laid over the supervisor's own environment, None takes a variable away; ``log`` gets stdout and stderr,
    appended.

    A service counts as up when ``services.json`` has an entry ``name`` with its pid and ``GET health_path`` on that entry's ``url_key``
    answers below 500. A process without ``url_key`` is up when it is started."""

    name: str
    argv: tuple[str, ...]
    log: Path
    env: Mapping[str, str | None] = field(default_factory=dict)
    cwd: Path | None = None
    url_key: str = ""
    health_path: str = ""
    ready_timeout_s: float = 120.0
    stop_grace_s: float = 15.0


@dataclass(frozen=True, slots=True)
class Plan:
    """The processes of a run, in starting order. The run lasts as long as ``trainer``; services that die are started again. So is a
    trainer that was killed, has lost its engine or ended without a word, at most ``trainer_restarts`` times without a new step in
    between; ``engine_gone_s`` is what it has to end by itself after its engine has died.
    ``trains`` False: the process in the trainer's place trains nothing (an evaluation), and is not asked for a step.

    ``max_restarts`` of one service within ``restart_window_s`` is the most that is put up with; each waits ``restart_delay_s`` times the
    number of restarts so far. ``stop_deadline_s`` bounds a drain that names no deadline of its own. Processes that outlive the one that
    started them have ``sweep_grace_s`` between SIGTERM and SIGKILL. ``terms`` are what the watchdog holds the run
    against; without them nobody watches."""

    services: tuple[ProcessSpec, ...]
    trainer: ProcessSpec
    total_steps: int | None = None
    sizes: Sizes = field(default_factory=Sizes)
    trains: bool = True
    trainer_restarts: int = 0
    engine_gone_s: float = 60.0
    max_restarts: int = 5
    restart_window_s: float = 600.0
    restart_delay_s: float = 0.5
    stop_deadline_s: float = 3600.0
    sweep_grace_s: float = 3.0
    tick_s: float = 0.2
    terms: Terms | None = None
    notifier: Notifier = field(default_factory=Notifier)
