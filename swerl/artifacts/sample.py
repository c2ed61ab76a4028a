"""A sample of trials worth reading: of the newest weights, resolved and unresolved, and what went wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from swerl.config import RunConfig
from swerl.record.redact import redact
from swerl.record.results import Trial
from swerl.record.rundir import RunDir

KEPT_FILES = ("result.json", "config.json", "trial.log", "agent/*.json", "agent/*.txt", "verifier/*")
FILE_LIMIT_BYTES = 1 << 20


def choose(trials: list[Trial], limit: int) -> list[Trial]:
    """At most ``limit`` trials, taking turns between kinds: resolved, unresolved and ungraded of each split, newest weights and other tasks
    first."""
    groups: dict[tuple[str, str], list[Trial]] = {}
    for trial in sorted(trials, key=lambda t: (-t.step, t.sample, t.task)):
        kind = "ungraded" if not trial.graded else "resolved" if trial.resolved else "unresolved"
        groups.setdefault((trial.split, kind), []).append(trial)
    chosen: list[Trial] = []
    queues = [groups[key] for key in sorted(groups, key=lambda k: (k[0] != "val", k[1] == "ungraded", k[1]))]
    while len(chosen) < limit and any(queues):
        for queue in queues:
            if queue and len(chosen) < limit:
                chosen.append(queue.pop(0))
    return chosen


def copy_sample(trials: list[Trial], run: RunDir, config: RunConfig, target: Path, limit: int, secrets: list[str]) -> list[str]:
    """Copy the readable files of the chosen trials, secrets taken out and each cut to a megabyte; returns the trials' names."""
    copied = []
    for trial in choose(trials, limit):
        source = config.experiment.trials_dir / trial.name
        if not trial.name or not source.is_dir():
            continue
        for path in _readable(source):
            text = path.read_bytes()[:FILE_LIMIT_BYTES].decode(errors="replace")
            goal = target / trial.name / path.relative_to(source)
            goal.parent.mkdir(parents=True, exist_ok=True)
            goal.write_text(redact(text, secrets))
        copied.append(trial.name)
    return copied


def _readable(folder: Path) -> Iterator[Path]:
    """Files worth reading. Links are not followed: a sandbox may have written them."""
    for pattern in KEPT_FILES:
        for path in sorted(folder.glob(pattern)):
            if path.is_file() and not path.is_symlink() and path.resolve().is_relative_to(folder.resolve()):
                yield path
