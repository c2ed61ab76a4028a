"""What is on disk when a call returns: file, then directory, then the word that it is done."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from swerl.record import checkpoints
from swerl.record.registry import Registry
from swerl.record.rundir import write_atomic
from swerl.record.session_journal import Journal as SessionJournal
from swerl.record.session_journal import OpenFiles

from .calls import Call, record
from .writers import WRITERS


@pytest.mark.parametrize("name", ["metrics", "trials", "upstream"])
def test_a_line_that_counts_is_synced_whole_before_the_call_returns(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "new" / "file.jsonl"
    found = record(monkeypatch)
    path.parent.mkdir()
    write = WRITERS[name](path)
    write(1)
    assert Call("sync directory", path.parent, 0) in found, "a new file must be found again"
    assert found[-1] == Call("sync", path, path.stat().st_size)
    write(2)
    assert found[-1] == Call("sync", path, path.stat().st_size)


def test_a_turn_is_synced_when_its_commit_returns_and_its_file_is_in_the_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "s.jsonl"
    found = record(monkeypatch)

    async def main() -> None:
        journal = SessionJournal(path, ThreadPoolExecutor(1), OpenFiles())
        await journal.begin({"k": "open"})
        assert found == [Call("sync directory", tmp_path, 0)]
        await journal.commit({"k": "turn"})

    asyncio.run(main())
    assert found[1:] == [Call("sync", path, path.stat().st_size)]


def test_an_event_is_synced_where_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from swerl.record.events import EventLog

    log = EventLog(tmp_path / "e.jsonl", "test")
    found = record(monkeypatch)
    log.emit("told")
    assert found == []
    log.emit("told", durable=True)
    assert found == [Call("sync", log.path, log.path.stat().st_size)]


def test_a_file_is_replaced_by_one_that_is_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    found = record(monkeypatch)
    write_atomic(tmp_path / "f.json", b"12345")
    synced, renamed, directory = found
    assert (synced.what, synced.bytes, synced.path.parent) == ("sync", 5, tmp_path) and synced.path.name != "f.json"
    assert renamed == Call("rename", tmp_path / "f.json", 5) and directory == Call("sync directory", tmp_path, 0)


def test_a_marker_comes_after_every_file_and_directory_it_speaks_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    step = tmp_path / "checkpoints" / "global_step_3"
    (step / "actor" / "huggingface").mkdir(parents=True)
    files = [step / "data.pt", step / "actor" / "model_world_size_1_rank_0.pt", step / "actor" / "huggingface" / "config.json"]
    for file in files:
        file.write_bytes(b"x" * 9)
    found = record(monkeypatch)
    checkpoints.commit(step, 3, "L1:3")
    marker = next(i for i, call in enumerate(found) if call.what == "rename" and call.path == step / checkpoints.MARKER)
    before = found[:marker]
    for file in files:
        assert Call("sync", file, 9) in before
    for folder in (step, step / "actor", step / "actor" / "huggingface"):
        last = max(before.index(Call("sync", file, 9)) for file in files if file.is_relative_to(folder))
        assert Call("sync directory", folder, 0) in before[last:], folder
    assert [call.path for call in found[marker + 1 :] if call.what == "sync directory"] == [step, step.parent]


def test_the_registry_syncs_what_it_says(tmp_path: Path):
    """SQLite calls the system itself; its own word for it is the pragma. 2 is FULL: a commit is on disk when it returns."""
    registry = Registry(tmp_path / "registry.sqlite")
    assert registry._db.execute("PRAGMA synchronous").fetchone()[0] == 2
    registry.close()


def test_a_checkpoint_counts_only_after_the_row_of_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The trainer's own hook, where verl logs a step: the row is on disk, then the marker, then older checkpoints go, then it is told."""
    from types import SimpleNamespace

    from swerl.record.events import EventLog
    from swerl.record.metrics import MetricsLog
    from swerl.record.rundir import RunDir
    from swerl.trainer.modes import RunHooks

    run = RunDir.at(tmp_path / "r")
    run.create()
    hooks = object.__new__(RunHooks)
    hooks.lineage = SimpleNamespace(name="L1", version=lambda step: f"L1:{step}")
    hooks.events, hooks.metrics_log = EventLog(run.events_of("trainer"), "trainer"), MetricsLog(run.metrics)
    hooks.config = SimpleNamespace(swerl=SimpleNamespace(max_checkpoints=1))
    found: list[Call] = []
    for step in (1, 2):
        folder = run.checkpoints / f"global_step_{step}"
        (folder / "actor").mkdir(parents=True)
        (folder / "actor" / "model_world_size_1_rank_0.pt").write_bytes(b"x")
        hooks._uncommitted = (folder, step)
        with pytest.MonkeyPatch.context() as patch:
            found = record(patch)
            hooks._record({"loss": 1.0}, step)
        row = found.index(Call("sync", run.metrics, run.metrics.stat().st_size))
        marker = next(i for i, call in enumerate(found) if call.what == "rename" and call.path == folder / checkpoints.MARKER)
        assert row < marker
        assert found[-1].path == hooks.events.path and found[-1].what == "sync"
    assert [path.name for path in checkpoints.committed(run.checkpoints)] == ["global_step_2"]
    hooks._record({"loss": 1.0}, 3)
    assert checkpoints.newest(run.checkpoints)[0].step == 2, "a step without a save commits nothing"
