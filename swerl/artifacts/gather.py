"""From a run directory to an archive."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import yaml

from swerl.artifacts.crate import write_crate
from swerl.artifacts.ledger import ARCHIVES, Ledger
from swerl.artifacts.outputs import runtime_output, wandb_run_ids
from swerl.artifacts.provenance import seal_archive
from swerl.artifacts.sample import copy_sample
from swerl.config import RunConfig, load_resolved
from swerl.config.schema import PROJECT_ROOT
from swerl.errors import fail
from swerl.facts.indexes import IndexUnreadable, row_count
from swerl.record.checkpoints import newest
from swerl.record.events import read_events
from swerl.record.metrics import Row, read_metrics
from swerl.record.quarantined import quarantined
from swerl.record.redact import known_secrets, redact, redacted
from swerl.record.registry import Registry
from swerl.record.results import Trial, best, costs, rate, trial_of, validations
from swerl.record.rundir import RunDir, read_json, write_json
from swerl.record.trial_journal import read as read_journal

LOG_TAIL_LINES = 400
EVENT_TAIL_LINES = 5000

Report = Callable[[Path, RunDir, int], None]  # writes a report of the run, with so many transcripts, into the folder


def gather(run_dir: Path, *, report: Report, artifacts_dir: Path | None = None, trials: int = 8, notes: str = "") -> Path:
    """Archive the run at ``run_dir`` and return the archive's path. ``trials`` trajectories go along. Raises SWERL-A001 for a directory
    that is no run. ``report`` adds what a person reads. The artifacts directory is the project's ``artifacts/`` unless named."""
    run = RunDir.at(run_dir)
    if not run.resolved.is_file() or not run.manifest.is_file():
        raise fail(
            "SWERL-A001", f"{run.root} is no run", "name a directory below experiment.runs_dir; `swerl status` lists them", str(run.root)
        )
    config = load_resolved(run.resolved)
    ledger = Ledger(artifacts_dir or PROJECT_ROOT / "artifacts")
    (ledger.root / ARCHIVES).mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(prefix=".staged-", dir=ledger.root / ARCHIVES))
    try:
        staged.chmod(0o755)
        row = _fill(staged, run, config, report, trials, notes)
        return ledger.add(staged, row)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise


def _fill(staged: Path, run: RunDir, config: RunConfig, report: Report, trials: int, notes: str) -> dict[str, Any]:
    """Everything but the number; returns the ledger's row."""
    secrets = known_secrets(run)
    for path in (
        run.config_snapshot,
        run.resolved,
        run.manifest,
        run.metrics,
        run.metrics_superseded,
        *sorted(run.root.glob("source.*.diff")),
    ):
        if path.is_file():
            (staged / path.name).write_text(redact(path.read_text(errors="replace"), secrets))
    for folder, pattern, lines in ((run.logs, "*.log", LOG_TAIL_LINES), (run.events, "*.jsonl", EVENT_TAIL_LINES)):
        for path in sorted(folder.glob(pattern)):
            target = staged / folder.name / path.name
            target.parent.mkdir(exist_ok=True)
            target.write_text(redact(_tail(path, lines), secrets))
    settled = read_trials(run)
    copied = copy_sample(settled, run, config, staged / "trajectories", trials, secrets)
    aside = quarantined(read_events(run.events_of("runner")))
    results = {
        **results_of(settled, read_metrics(run.metrics), config),
        "set_aside": [{"what": entry.what, "name": entry.name, "error": redact(entry.error, secrets)} for entry in aside],
    }
    write_json(staged / "results.json", results)
    report(staged, run, trials)
    output = redacted(runtime_output(run, config, results), secrets)
    (staged / "runtime_info.yaml").write_text(yaml.safe_dump({"runtime_info": {"output": output}}, sort_keys=False, allow_unicode=True))
    _take_secrets_out(staged, secrets)
    content = _digest(staged)
    metadata = {
        **redacted(_metadata(run, config), secrets),
        "trajectories": copied,
        "content_sha256": content,
        "notes": redact(notes, secrets),
    }
    (staged / "metadata.yaml").write_text(yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True))
    write_crate(staged, metadata)
    completed = metadata["completed_at"]
    seal_archive(staged, finished=datetime.fromisoformat(completed).timestamp() if completed else None, outcome=metadata["status"])
    _write_sums(staged)
    shown = output["val_resolve_rate"]["value"]
    kept = ("run", "project", "started_at", "completed_at", "status", "exit_code", "config_digest", "commit", "content_sha256", "notes")
    return {**{name: metadata[name] for name in kept}, "steps": results["steps"], "val_resolve_rate": shown}


def read_trials(run: RunDir) -> list[Trial]:
    """Settled trials of the runner's journal, each identity once: the last line of one counts. In the order they settled."""
    found: dict[tuple, Trial] = {}
    for line in read_journal(run.trials_journal):
        if line.get("kind") == "settled":
            trial = trial_of(line["result"])
            key = (trial.split, trial.task, trial.sample, trial.version)
            found.pop(key, None)
            found[key] = trial
    return list(found.values())


def results_of(trials: list[Trial], rows: list[Row], config: RunConfig) -> dict[str, Any]:
    """The archive's ``results.json``. ``expected`` trials of a validation are tasks times samples, where the index can still be read."""
    try:
        expected = row_count(config.data.val_index) * config.training.val_n
    except IndexUnreadable:
        expected = None
    found = validations(trials, expected)
    chosen = best(found)
    training = [t for t in trials if t.split == "train"]
    steps = [row.step for row in rows if row.step > 0]
    return {
        "steps": max(steps, default=0),
        "validations": [v.as_dict() for v in found],
        "best": chosen.as_dict() if chosen else None,
        "train": {"resolve_rate": rate(training).as_dict(), "cost_by_outcome": costs(training)},
        "val": {"cost_by_outcome": costs(t for t in trials if t.split == "val")},
        "first": rows[0].data if rows else {},
        "last": rows[-1].data if rows else {},
    }


def _metadata(run: RunDir, config: RunConfig) -> dict[str, Any]:
    manifest = read_json(run.manifest)
    attempts = manifest.get("attempts") or [{}]
    row = None
    if run.registry.is_file():
        registry = Registry(run.registry)
        try:
            row = registry.get(run.id)
        finally:
            registry.close()
    checkpoint, passed_over = newest(run.checkpoints) if run.checkpoints.is_dir() else (None, [])
    return {
        "run": run.id,
        "project": config.experiment.project_name,
        "started_at": _time(attempts[0].get("started")),
        "completed_at": _time(row.ended if row else None),
        "status": str(row.state) if row else "unknown",
        "exit_code": row.exit_code if row else None,
        "problem": row.problem if row else None,
        "attempts": len(attempts),
        "config_digest": config.digest,
        "commit": attempts[-1].get("source", {}).get("commit"),
        "dirty": attempts[-1].get("source", {}).get("dirty"),
        "lock_sha256": attempts[-1].get("lock_sha256"),
        "versions": attempts[-1].get("versions"),
        "checkpoint": {"path": str(checkpoint.path), "step": checkpoint.step, "version": checkpoint.version} if checkpoint else None,
        "checkpoints_passed_over": passed_over,
        "wandb_run_ids": wandb_run_ids(run.root),
    }


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def _tail(path: Path, lines: int) -> str:
    """The last lines of a file, reading no more of it than they can need."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - lines * 4096))
        kept = file.read().split(b"\n")[-lines - 1 :]
    return b"\n".join(kept).decode(errors="replace")


def _take_secrets_out(folder: Path, secrets: list[str]) -> None:
    """Whatever wrote a file of text, and whatever it read for it. What is no text, such as an image, stays as it is."""
    for path in _files(folder):
        try:
            text = path.read_bytes().decode()
        except UnicodeDecodeError:
            continue
        if (clean := redact(text, secrets)) != text:
            path.write_bytes(clean.encode())


def _files(folder: Path) -> Iterable[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())


def _digest(folder: Path) -> str:
    """One digest over names and contents: equal archives of one run have one digest, whenever they are made."""
    digest = hashlib.sha256()
    for path in _files(folder):
        digest.update(orjson.dumps([str(path.relative_to(folder)), hashlib.sha256(path.read_bytes()).hexdigest()]))
    return digest.hexdigest()


def _write_sums(folder: Path) -> None:
    sums = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(folder)}" for p in _files(folder)]
    (folder / "SHA256SUMS").write_text("\n".join(sums) + "\n")
