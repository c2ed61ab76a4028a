"""Which weights sampled a session of a run, as far as they are on disk: the run's policy for ``init:0``, else the checkpoint that was
committed under the version of the session's trial."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from swerl.config import load_resolved
from swerl.errors import fail
from swerl.gateway.verify import Recording, load_recording
from swerl.record.checkpoints import committed, read_marker


@dataclass(frozen=True, slots=True)
class Comparison:
    """A recording and the weights to compare it with; ``step`` picks the tokens that these weights sampled (None: all)."""

    file: Path
    recording: Recording
    version: str
    model: Path
    step: int | None


def run_of(journal: Path) -> Path | None:
    """The run directory of ``runs/NAME/gateway/sessions/ID.jsonl``; None for a file that lies elsewhere."""
    run = journal.resolve().parent.parent.parent
    return run if journal.suffix == ".jsonl" and (run / "resolved.json").is_file() else None


def weights_of(run: Path) -> dict[str, Path]:
    """Version names to model directories. A checkpoint counts when it is committed and holds weights in Hugging Face's form."""
    found = {"init:0": load_resolved(run / "resolved.json").model.model_path}
    for path in committed(run / "checkpoints"):
        directory = path / "actor" / "huggingface"
        if any(directory.glob("*.safetensors")):
            found[read_marker(path)["version"]] = directory
    return found


def version_of(trial: Mapping[str, object]) -> tuple[str, int | None]:
    """Name and step of the version that a session's trial ran under; no step where the trial has no version (evaluation)."""
    name = str(trial.get("version") or "")
    step = name.rpartition(":")[2]
    return name, int(step) if step.isdigit() else None


def comparisons(files: Sequence[Path]) -> tuple[list[Comparison], Counter[str]]:
    """What can be compared, ordered so that each model is needed once, and how many recordings of each version cannot.

    Raises SwerlError SWERL-G012 for a file that belongs to no run.
    """
    found, missing, known = [], Counter[str](), dict[Path, dict[str, Path]]()
    for file in files:
        if (run := run_of(file)) is None:
            raise fail("SWERL-G012", "this recording lies in no run, so its weights are not known", "name them with --model", str(file))
        if run not in known:
            known[run] = weights_of(run)
        recording = load_recording(file)
        version, step = version_of(recording.trial)
        if version in known[run]:
            found.append(Comparison(file, recording, version, known[run][version], step))
        else:
            missing[version] += 1
    return sorted(found, key=lambda c: str(c.model)), missing
