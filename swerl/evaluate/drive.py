"""The trials of an evaluation: asks the runner for every (task, sample), waits for all, writes the numbers. Resumes by asking again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from swerl.config import RunConfig
from swerl.data import index
from swerl.data.doctor import choose
from swerl.data.index import Entry
from swerl.evaluate import harvest, report
from swerl.evaluate.order import Order
from swerl.record.client import Service
from swerl.record.events import EventLog
from swerl.record.model import TrialResult
from swerl.record.rundir import RunDir, write_json
from swerl.record.trial_journal import is_final
from swerl.record.trial_journal import read as read_journal

RESULTS = "evaluation.json"
SPLIT = "val"  # sampled as validation is, and never cut by the tail-killer


async def run_all(run: RunDir, asked: Order, entries: Sequence[Entry], at_once: int) -> list[dict[str, Any]]:
    """All results. The first refusal (the breaker, a runner that stays away) ends it: what has settled is in the runner's journal."""
    runner, slots = Service(run.services, "runner"), asyncio.Semaphore(at_once)

    async def one(entry: Entry, sample: int) -> dict[str, Any]:
        who = {"split": SPLIT, "task_hash": entry.task_hash, "sample": sample, "version": asked.version}
        async with slots:
            body = {**who, "task_dir": str(entry.path), "task_id": entry.task_id, "step": 0}
            return await runner.call("POST", "/trials", body, timeout_s=None)

    tasks = [asyncio.create_task(one(entry, sample)) for sample in range(asked.samples) for entry in entries]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await runner.close()


def _settled(run: RunDir, asked: Order, entries: Sequence[Entry]) -> int:
    """How many of the trials an earlier start has settled for good."""
    wanted, found = {entry.task_hash for entry in entries}, set()
    for line in read_journal(run.trials_journal):
        if line.get("kind") == "settled" and is_final(result := TrialResult.from_dict(line["result"])):
            who = result.identity
            if who.version == asked.version and who.task_hash in wanted and who.sample < asked.samples:
                found.add(who.key)
    return len(found)


def carry_out(run: RunDir, config: RunConfig, asked: Order) -> Mapping[str, Any]:
    """Run everything and write ``evaluation.json`` (last: it stands for a finished evaluation)."""
    entries = choose(index.read(Path(asked.index)), asked.tasks)
    events = EventLog(run.events_of("evaluation"), "evaluation")
    events.emit(
        "evaluation.begin",
        durable=True,
        mode=asked.mode,
        tasks=len(entries),
        samples=asked.samples,
        version=asked.version,
        left=len(entries) * asked.samples - _settled(run, asked, entries),
        at_once=config.harbor_runtime.num_workers,
    )
    began = time.monotonic()
    settled = asyncio.run(run_all(run, asked, entries, at_once=max(64, 2 * config.harbor_runtime.num_workers)))
    found = report.results(asked, settled, len(entries))
    found["seconds"] = round(time.monotonic() - began, 1)
    if asked.mode == "infer":
        found["harvest"] = harvest.write(run, asked, entries, settled, config.experiment.trials_dir)
    write_json(run.root / RESULTS, found)
    events.emit("evaluation.end", durable=True, resolve_rate=found["resolve_rate"]["value"], settled=len(settled))
    events.close()
    return found
