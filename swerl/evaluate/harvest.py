"""What `swerl infer` leaves: trajectories, one line an attempt, rewards by task, and the index of the tasks within the band.

trajectories/<task>/<sample>.json    ATIF, as the agent wrote it (agents that write none are counted)
attempts.jsonl                       task, sample, outcome, reward, trial, session, trajectory (null without one)
rewards.json                         task hash -> rewards; null where it was not graded (input of `swerl data filter`)
filtered.parquet                     an index of the tasks whose solved share lies within the band
"""

from __future__ import annotations

import re
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from swerl.data import difficulty, index
from swerl.data.index import Entry
from swerl.evaluate.order import Order
from swerl.record.rundir import RunDir, write_atomic, write_json


def write(run: RunDir, asked: Order, entries: Sequence[Entry], settled: Sequence[Mapping[str, Any]], trials_dir: Path) -> dict[str, Any]:
    """Repeatable: everything is written anew from the settled trials. Returns what there is."""
    by_hash = {entry.task_hash: entry for entry in entries}
    lines, rewards, without = [], defaultdict(list), 0
    for result in sorted(settled, key=lambda r: (r["identity"]["task_hash"], r["identity"]["sample"])):
        who = result["identity"]
        entry = by_hash[who["task_hash"]]
        kept = _keep(trials_dir / result["trial_name"] if result["trial_name"] else None, run, entry, who["sample"])
        without += kept is None
        rewards[entry.task_hash].append(result["reward"] if result["graded"] else None)
        lines.append(
            {
                "task_id": entry.task_id,
                "task_hash": entry.task_hash,
                "sample": who["sample"],
                "version": who["version"],
                "outcome": result["outcome"],
                "graded": result["graded"],
                "reward": result["reward"],
                "turns": result["turns"],
                "trial": result["trial_name"],
                "session": result["session"],
                "trajectory": None if kept is None else str(kept.relative_to(run.root)),
            }
        )
    write_atomic(run.root / "attempts.jsonl", b"".join(orjson.dumps(line) + b"\n" for line in lines))
    write_json(run.root / "rewards.json", rewards)
    sifted = difficulty.sift(entries, rewards, difficulty.Band(asked.above, asked.below, min(2, asked.samples)))
    index.write(run.root / "filtered.parquet", sifted.kept)
    return {
        "attempts": len(lines),
        "trajectories": len(lines) - without,
        "without_trajectory": without,
        "kept": len(sifted.kept),
        "too_hard": len(sifted.too_hard),
        "too_easy": len(sifted.too_easy),
        "unknown": len(sifted.unknown),
    }


def _keep(trial: Path | None, run: RunDir, entry: Entry, sample: int) -> Path | None:
    """Copy the attempt's trajectory; links are not followed, a sandbox may have written them."""
    source = trial / "agent" / "trajectory.json" if trial is not None else None
    if source is None or source.is_symlink() or not source.is_file():
        return None
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", entry.task_id).strip("-.")[:60] or "task"
    target = run.root / "trajectories" / f"{slug}-{entry.task_hash.rpartition(':')[2][:8]}" / f"{sample}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    return target
