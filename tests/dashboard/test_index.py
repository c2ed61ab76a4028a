"""The index says what the files say, however it came to read them: at once, bit by bit, after a kill, beside a second server."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import orjson
import pytest

from swerl.dashboard import store
from swerl.dashboard.context import Seen
from swerl.dashboard.index import NAME, RunIndex, wait_until_read
from swerl.dashboard.views import trials
from swerl.record.metrics import MetricsLog
from swerl.record.rundir import RunDir

TABLES = ("names", "points", "gauges", "gauge_means", "counts", "tasks", "groups", "steps", "work")


def dump(index: RunIndex) -> dict[str, list]:
    with index.reading() as db:
        db.row_factory = None
        found = {table: sorted(db.execute(f"SELECT * FROM {table}").fetchall(), key=repr) for table in TABLES}
        names = dict(db.execute("SELECT id, name FROM names"))
        for table in ("points", "gauges", "gauge_means"):
            found[table] = sorted(((names[row[0]], *row[1:]) for row in found[table]), key=repr)
        found["names"] = sorted(names.values())
        columns = ", ".join(row[1] for row in db.execute("PRAGMA table_info(trials)") if row[1] != "id")
        found["trials"] = sorted(db.execute(f"SELECT {columns} FROM trials").fetchall(), key=repr)
        found["events"] = sorted(db.execute("SELECT time, source, kind, step, trial, data FROM events").fetchall(), key=repr)
        db.row_factory = sqlite3.Row
    return found


def read_whole(root: Path) -> dict[str, list]:
    index = RunIndex(RunDir.at(root))
    try:
        wait_until_read(index)
        return dump(index)
    finally:
        index.close()


def test_counts_what_the_files_hold(made: Path, run_dir: Path) -> None:
    found = read_whole(run_dir)
    settled = [
        orjson.loads(line)["result"] for line in (made / "trials" / "journal.jsonl").read_bytes().splitlines() if b'"settled"' in line
    ]
    assert len(found["trials"]) == len(settled) == 12 * 8 * 4 + 2 * 4 * 4
    resolved = sum(r["reward"] == 1.0 for r in settled)
    assert sum(row[5] for row in found["groups"]) == resolved
    rows = [orjson.loads(line) for line in (made / "metrics.jsonl").read_bytes().splitlines()]
    assert len(found["points"]) == sum(len(row["data"]) for row in rows)


def test_bit_by_bit_and_over_restarts_gives_the_same(made: Path, run_dir: Path, tmp_path: Path) -> None:
    whole = read_whole(run_dir)
    grown = tmp_path / "grown" / "made"
    RunDir.at(grown).create()
    (grown / "lineage.json").write_bytes((made / "lineage.json").read_bytes())
    files = [*(made / "events").glob("*.jsonl"), made / "metrics.jsonl", made / "trials" / "journal.jsonl"]
    for part in range(1, 8):
        for file in files:
            data = file.read_bytes()
            target = grown / file.relative_to(made)
            with target.open("ab") as out:
                out.write(data[len(data) * (part - 1) // 7 : len(data) * part // 7])
        index = RunIndex(RunDir.at(grown))  # a new process each time
        wait_until_read(index)
        index.close()
    assert read_whole(grown) == whole


@pytest.mark.parametrize("lineage", [True, False])
def test_a_kill_in_the_middle_of_a_refresh_loses_and_doubles_nothing(run_dir: Path, monkeypatch: pytest.MonkeyPatch, lineage: bool) -> None:
    """Killed after the files were read and before they were summed up, with nothing new in them afterwards."""
    if not lineage:
        (run_dir / "lineage.json").unlink()
    whole = read_whole(run_dir)
    store.remove(run_dir / NAME)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    index = RunIndex(RunDir.at(run_dir))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("swerl.dashboard.index.sum_up", killed)
        index.refresh()
    index.close()
    assert read_whole(run_dir) == whole


def test_an_index_that_is_being_made_answers(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are there before the indices that questions are answered by."""
    index = RunIndex(RunDir.at(run_dir))
    found = []

    def asked(*_: object) -> None:
        with index.reading() as db:
            seen = Seen(index.run, db)
            assert not store.has_indices(db)
            found.append(trials.listed(seen, where={"outcome": "completed"}, order="slowest", limit=500, offset=0)["trials"])

    with monkeypatch.context() as patch:
        patch.setattr("swerl.dashboard.index.sum_up", asked)
        assert index.refresh()
    with index.reading() as db:
        assert store.has_indices(db)
        assert found == [trials.listed(Seen(index.run, db), where={"outcome": "completed"}, order="slowest", limit=500, offset=0)["trials"]]
    index.close()


def test_torn_and_foreign_lines_are_counted_and_passed_over(run_dir: Path) -> None:
    whole = read_whole(run_dir)
    for name in ("events/trainer.jsonl", "trials/journal.jsonl", "metrics.jsonl"):
        with (run_dir / name).open("ab") as file:
            file.write(b'{"time": 1, "ki\n[1,2]\nnull\n{"kind": "settled"}\n{"time": 1, "kind": "trial.started"}\n\xff\xfe\n')
    index = RunIndex(RunDir.at(run_dir))
    wait_until_read(index)
    after = dump(index)
    with index.reading() as db:
        assert int(db.execute("SELECT value FROM meta WHERE name = 'broken_lines'").fetchone()[0]) >= 12
    index.close()
    assert after == whole
    assert read_whole(run_dir)["trials"] == whole["trials"]


def test_rows_that_a_resume_took_away_are_gone(run_dir: Path) -> None:
    index = RunIndex(RunDir.at(run_dir))
    wait_until_read(index)
    MetricsLog(run_dir / "metrics.jsonl").resume(9)
    assert index.refresh()
    with index.reading() as db:
        assert db.execute("SELECT max(step) FROM points").fetchone()[0] == 9
        assert db.execute("SELECT count(*) FROM trials").fetchone()[0] == 416
    index.close()


def test_trials_of_weights_left_behind_are_superseded(run_dir: Path) -> None:
    """The trainer crashed in step 12 and came back from step 9: what ran under L1:10 and L1:11 counts for nothing."""
    index = RunIndex(RunDir.at(run_dir))
    wait_until_read(index)
    starts = orjson.loads((run_dir / "lineage.json").read_bytes())
    (run_dir / "lineage.json").write_bytes(orjson.dumps([*starts, {"epoch": 2, "base_step": 9, "base_version": "L1:9", "time": 1.0}]))
    assert index.refresh()
    with index.reading() as db:
        rows = dict(db.execute("SELECT step, sum(fate = 'superseded') FROM trials WHERE split = 'train' GROUP BY step").fetchall())
    index.close()
    assert {step for step, n in rows.items() if n} == {11, 12} and rows[11] == rows[12] == 32


def test_a_second_server_and_an_index_of_another_version(run_dir: Path) -> None:
    first = RunIndex(RunDir.at(run_dir))
    second = RunIndex(RunDir.at(run_dir))
    assert first.path == run_dir / NAME != second.path
    wait_until_read(first)
    wait_until_read(second)
    assert dump(first) == dump(second)
    second.close()
    assert not second.path.exists()
    first.close()
    with sqlite3.connect(run_dir / NAME) as db:
        db.execute("PRAGMA user_version = 9999")
    assert len(read_whole(run_dir)["trials"]) == 416
    (run_dir / NAME).write_bytes(b"this is no database" * 1000)
    assert len(read_whole(run_dir)["trials"]) == 416
