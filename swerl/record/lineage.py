"""Names for the versions of the weights, so that a trial is reused after a restart exactly when it ran under the same weights.

Steps alone do not name weights: after a crash the run continues from an older checkpoint, and step 7 trained again is not step 7 as it
was. A version is ``<lineage>:<step>``. Every start of the trainer opens a lineage ``L<epoch>``; the weights it restored keep the name they
were committed under, so trials that finished under them count.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import orjson

from swerl.record.checkpoints import Checkpoint
from swerl.record.rundir import write_atomic

INITIAL = "init:0"


@dataclass(frozen=True, slots=True)
class Lineage:
    """One start of the trainer. ``epoch`` counts starts from 1; ``base_step`` and ``base_version`` say what it restored."""

    epoch: int
    base_step: int
    base_version: str

    @property
    def name(self) -> str:
        return f"L{self.epoch}"

    def version(self, step: int) -> str:
        """Version name of the weights after ``step`` optimizer steps of the run. Raises ValueError for steps before the restored one."""
        if step < self.base_step:
            raise ValueError(f"step {step} lies before the restored step {self.base_step}")
        return self.base_version if step == self.base_step else f"{self.name}:{step}"


def open_lineage(path: Path, restored: Checkpoint | None) -> Lineage:
    """Record one more start of the trainer in ``path`` (``lineage.json`` of the run) and return it."""
    starts = read_lineages(path)
    lineage = Lineage(
        epoch=len(starts) + 1,
        base_step=restored.step if restored else 0,
        base_version=restored.version if restored else INITIAL,
    )
    record = {"epoch": lineage.epoch, "base_step": lineage.base_step, "base_version": lineage.base_version, "time": time.time()}
    write_atomic(path, orjson.dumps([*starts, record], option=orjson.OPT_INDENT_2))
    return lineage


def read_lineages(path: Path) -> list[dict]:
    """All starts so far, oldest first; empty before the first."""
    return orjson.loads(path.read_bytes()) if path.exists() else []


def current_lineage(path: Path) -> Lineage:
    """The lineage of the running trainer. Raises FileNotFoundError before the first start."""
    starts = read_lineages(path)
    if not starts:
        raise FileNotFoundError(path)
    last = starts[-1]
    return Lineage(last["epoch"], last["base_step"], last["base_version"])
