"""The trials of a run that is over, in place of new ones: what its runner settled and its gateway recorded, read from its directory.

``swerl reproduce`` trains again from them. A trial is found by split, task content, sample and the step of its weights; where a run
settled one more than once (a restart, an attempt that the infrastructure spoiled), the last one counts, as it did then. Nothing is
sampled, no service is asked, and a trial that the run does not have is an error: it cannot be made up.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from swerl.errors import fail
from swerl.gateway.records import read_tree
from swerl.gateway.tree import paths
from swerl.record.rundir import RunDir
from swerl.record.session_journal import journal_path, read_journal
from swerl.record.trial_journal import read as read_trials
from swerl.trainer.rollout import TrialRollout

Key = tuple[str, str, int, int]


class RecordedTrials(TrialRollout):
    """``source`` is the directory of the run; the other arguments are those of `TrialRollout`."""

    def __init__(self, source: str, **arguments: Any):
        super().__init__(**arguments)
        self.source = RunDir.at(source)
        self.results = settled_trials(self.source.trials_journal)

    async def _settle(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        key = (request["split"], request["task_hash"], request["sample"], step_of(request["version"]))
        try:
            return self.results[key]
        except KeyError:
            split, _, sample, step = key
            raise fail(
                "SWERL-R115",
                f"{self.source.id} has no trial of {request['task_id']} ({split}, sample {sample}) under the weights of step {step}",
                "train again no further than that run went: `--steps`",
                str(self.source.trials_journal),
            ) from None

    async def _recording(self, session: str) -> Mapping[str, Any]:
        return {"paths": recorded_paths(self.source, session)}


def settled_trials(journal: Path) -> dict[Key, Mapping[str, Any]]:
    found = {}
    for line in read_trials(journal):
        if line.get("kind") == "settled":
            who = line["result"]["identity"]
            found[who["split"], who["task_hash"], who["sample"], step_of(who["version"])] = line["result"]
    return found


def recorded_paths(run: RunDir, session: str) -> list[dict[str, Any]]:
    """The paths that the gateway gave for this session."""
    records = list(read_journal(journal_path(run.gateway / "sessions", session)))
    return [path.as_dict() for path in paths(read_tree(records[1:]))]


def step_of(version: str) -> int:
    return int(version.rpartition(":")[2])
