"""``python -m swerl.trials.doctor``: are the tasks of a configuration sound? Gold solution and no-op, in the configuration's own sandbox.

Prints one line a task that is not sound, progress in between, and last one line of JSON: the sound share, the counts, and the tasks that
are not sound. Leaves nothing behind. ``swerl.data.doctor`` judges; this runs the trials, through the runner's own attempts.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # before Harbor: litellm would ask the network at import

import click
import orjson

from swerl.config import RunConfig, load_resolved
from swerl.data import index
from swerl.data.doctor import Agent, Diagnosis, Report, choose, examine
from swerl.data.index import Entry
from swerl.errors import SwerlError
from swerl.record.events import EventLog
from swerl.record.model import Identity, TrialRequest
from swerl.record.outcomes import RewardMissing, judge
from swerl.trials.attempt import AttemptRunner, Ender
from swerl.trials.clock import GatewayWatch
from swerl.trials.gateway import GatewayAdmin
from swerl.trials.sandboxes import reaper
from swerl.trials.settings import RunnerSettings, run_tag, settings_from

AGENTS: tuple[Agent, ...] = ("oracle", "nop")


@dataclass(frozen=True, slots=True)
class Clinic:
    """The attempts of one examination: two agents that need no policy, so that gateway and engine play no part. ``work`` is the
    examination's own directory; its sandboxes carry its own label."""

    settings: RunnerSettings
    attempts: dict[Agent, AttemptRunner]

    @classmethod
    def open(cls, config: RunConfig, work: Path) -> Clinic:
        ours = settings_from(config, work)
        ours = replace(ours, trials_dir=work / "trials", sandbox={**ours.sandbox, "work_dir": str(work / "sandboxes"), "network": "none"})
        gateway = GatewayAdmin(work / "services.json")
        events = EventLog(work / "events.jsonl", "doctor")
        attempts = {}
        for agent in AGENTS:
            settings = replace(ours, harbor={**ours.harbor, "agent": {"name": agent}})
            attempts[agent] = AttemptRunner(settings, gateway, GatewayWatch(gateway.public_url), events)
        return cls(ours, attempts)

    async def reward(self, entry: Entry, agent: Agent, number: int) -> float | None:
        """The run's reward of one attempt; None when it was not graded."""
        who = Identity("val", entry.task_hash, number, agent)
        name = f"{entry.task_id[:40]}-{who.digest}"
        attempt = await self.attempts[agent].run(TrialRequest(who, entry.path, entry.task_id, 0), number, name, Ender())
        try:
            verdict = judge(attempt.evidence, self.settings.reward_key, self.settings.overlong, self.settings.timeout)
        except RewardMissing:
            return None
        return verdict.reward if verdict.graded else None


async def diagnose(clinic: Clinic, entries: list[Entry], repetitions: int, seen: Any) -> Report:
    """`examine` asks from threads of its own; the trials run here, as many at once as the run may have."""
    loop = asyncio.get_running_loop()
    numbers = iter(range(1 << 62))

    def run(entry: Entry, agent: Agent) -> float | None:
        return asyncio.run_coroutine_threadsafe(clinic.reward(entry, agent, next(numbers)), loop).result()

    return await asyncio.to_thread(examine, entries, run, repetitions, clinic.settings.num_workers, seen)


@click.command(help=__doc__)
@click.option("--config", "resolved", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True, help="A resolved.json.")
@click.option("--tasks", type=click.IntRange(min=0), default=64, show_default=True, help="Of each index, evenly spread; 0 for all.")
@click.option("--repetitions", type=click.IntRange(min=1), default=1, show_default=True, help="Finds flaky tasks.")
def main(resolved: Path, tasks: int, repetitions: int) -> None:
    work = Path(tempfile.mkdtemp(prefix="swerl-doctor-"))
    try:
        config = load_resolved(resolved)
        chosen = [entry for path in (config.data.train_index, config.data.val_index) for entry in choose(index.read(path), tasks)]
        report = asyncio.run(diagnose(Clinic.open(config, work), chosen, repetitions, Progress(len(chosen))))
    except SwerlError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    finally:
        reaper.reap(run_tag(work), str(work / "sandboxes"))
        shutil.rmtree(work, ignore_errors=True)
    print(orjson.dumps({"sound_share": report.sound_share, "counts": report.counts, "unsound": unsound(report)}).decode(), flush=True)


def unsound(report: Report) -> list[dict[str, Any]]:
    return [
        {"task": d.entry.task_id, "path": str(d.entry.path), "verdict": d.verdict, "oracle": d.oracle, "nop": d.nop}
        for d in report.diagnoses
        if d.verdict != "sound"
    ]


class Progress:
    """Says each unsound task, and every five seconds how many are done."""

    def __init__(self, total: int):
        self.total, self.done, self.said = total, 0, time.monotonic()

    def __call__(self, diagnosis: Diagnosis) -> None:
        self.done += 1
        if diagnosis.verdict != "sound":
            print(f"{diagnosis.entry.task_id}: {diagnosis.verdict}, oracle {diagnosis.oracle}, no-op {diagnosis.nop}", flush=True)
        if time.monotonic() - self.said >= 5 or self.done == self.total:
            self.said = time.monotonic()
            print(f"{self.done} of {self.total} tasks examined", flush=True)


if __name__ == "__main__":
    main()
