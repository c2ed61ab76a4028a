"""What the runner's journal says of one version of the weights, as metrics: ``swerl/val/*`` after a validation, ``swerl/trials/*`` per step.

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


class TrialJournal:
    """Follows ``journal.jsonl``: each call reads only what was added since."""

    def __init__(self, path: Path):
        self.path = path
        self._offset = 0
        self._results: dict[tuple[str, str], list[dict[str, Any]]] = {}

    def validation_metrics(self, version: str) -> dict[str, float]:
        from swerl.artifacts.results import resolve_rates

        return {f"swerl/val/{name}": value for name, value in resolve_rates(self._of("val", version)).items()}

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
            self._results.setdefault((identity["split"], identity["version"]), []).append(result)
        return self._results.get((split, version), [])

    def _new(self) -> Iterator[dict[str, Any]]:
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # being written; read whole next time
                self._offset += len(line)
                entry = orjson.loads(line)
                if entry.get("kind") == "settled":
                    yield entry["result"]
