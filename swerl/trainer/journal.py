"""The runner's verdicts on one version of the weights, as metrics: ``swerl/val/*`` after a validation, ``swerl/trials/*`` per step.

The rates come from verdicts, not from verl's tensors: verl fills sessions without a verdict with 0, and a resolve rate that counts a
broken sandbox as a failed fix is no resolve rate. Coverage says how many of the trials asked for were graded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import orjson

from swerl.record.results import trial_of, validations


class TrialJournal:
    """Follows ``journal.jsonl``: each call reads only what was added since."""

    def __init__(self, path: Path):
        self.path = path
        self._offset = 0
        self._results: dict[tuple[str, str], dict[tuple[str, int], dict[str, Any]]] = {}  # (split, version) -> (task, sample) -> last

    def validation_metrics(self, version: str, expected: int) -> dict[str, float]:
        """Rates of the validation under ``version``, of ``expected`` trials; empty before the first verdict."""
        results = self._of("val", version)
        found = validations(map(trial_of, results), expected)
        if not found or found[0].rate.value is None:
            return {}
        rate = found[0].rate
        graded = [result["rewards"] for result in results if result["graded"]]
        return {
            "swerl/val/resolve_rate": rate.value,
            "swerl/val/resolve_rate/low": rate.low,
            "swerl/val/resolve_rate/high": rate.high,
            "swerl/val/coverage": rate.coverage,
            **{f"swerl/val/pass_at_{k}": value for k, (value, _) in found[0].pass_at.items()},
            **{f"swerl/val/verifier/{name}": mean(rewards.get(name, 0.0) for rewards in graded) for name in sorted(graded[0])},
            **{f"swerl/val/outcome/{name}": count for name, count in found[0].outcomes.items()},
        }

    def training_metrics(self, version: str) -> dict[str, float]:
        """Outcome counts and mean seconds per phase of the trials under ``version``."""
        results = self._of("train", version)
        if not results:
            return {}
        outcomes = Counter(result["outcome"] for result in results)
        phases = ("queue_s", "setup_s", "agent_s", "verifier_s", "hold_s", "total_s")
        return {
            "swerl/trials/count": len(results),
            "swerl/trials/in_loss": sum(result["in_loss"] for result in results),
            "swerl/trials/reused": sum(result["reused"] for result in results),
            "swerl/trials/attempts": sum(result["attempts"] for result in results),
            **{f"swerl/trials/outcome/{name}": count for name, count in sorted(outcomes.items())},
            **{f"swerl/trials/{phase}/mean": mean(result["timing"][phase] for result in results) for phase in phases},
        }

    def _of(self, split: str, version: str) -> list[dict[str, Any]]:
        for result in self._new():
            identity = result["identity"]
            trials = self._results.setdefault((identity["split"], identity["version"]), {})
            trials[identity["task_hash"], identity["sample"]] = result  # a trial that was run again counts once
        return list(self._results.get((split, version), {}).values())

    def _new(self) -> Iterator[dict[str, Any]]:
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # being written; read whole next time
                self._offset += len(line)
                try:
                    entry = orjson.loads(line)
                except orjson.JSONDecodeError:
                    continue  # torn by a killed runner and closed off by its successor
                if entry.get("kind") == "settled":
                    yield entry["result"]
