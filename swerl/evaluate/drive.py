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
from swerl.runs.events import EventLog
from swerl.runs.rundir import RunDir, write_json
from swerl.trainer.services import Service

RESULTS = "evaluation.json"
SPLIT = "val"  # sampled as validation is, and never cut by the tail-killer


async def run_all(run: RunDir, asked: Order, entries: Sequence[Entry], at_once: int) -> list[dict[str, Any]]:
    """All results. The first refusal (the breaker, a runner that stays away) ends it: what has settled is in the runner's journal."""
    runner, slots = Service(run.services, "runner"), asyncio.Semaphore(at_once)

    async def one(entry: Entry, sample: int) -> dict[str, Any]:
        who = {"split": SPLIT, "task_hash": entry.task_hash, "sample": sample, "version": asked.version}
        async with slots:
            body = {**who, "task_dir": str(entry.path), "task_id": entry.task_id, "step": 0, "deadline_s": None}
            return await runner.call("POST", "/trials", body, timeout_s=None)

    tasks = [asyncio.create_task(one(entry, sample)) for sample in range(asked.samples) for entry in entries]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await runner.close()


def carry_out(run: RunDir, config: RunConfig, asked: Order) -> Mapping[str, Any]:
    """Run everything and write ``evaluation.json`` (last: it stands for a finished evaluation)."""
    entries = choose(index.read(Path(asked.index)), asked.tasks)
    events = EventLog(run.events_of("evaluation"), "evaluation")
    events.emit("evaluation.begin", durable=True, mode=asked.mode, tasks=len(entries), samples=asked.samples, version=asked.version)
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
