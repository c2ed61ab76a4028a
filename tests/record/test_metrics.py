"""metrics.jsonl has neither hole nor double, wherever the trainer was killed."""

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from swerl.record.metrics import MetricsLog, damaged_rows, read_metrics


def test_rows_of_one_step_are_one_row(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append(0, "a", {"val": 0.3})
    log.append(1, "a", {"loss": 1.0})
    log.append(1, "a", {"val": 0.4})
    assert [(row.step, row.data) for row in read_metrics(log.path)] == [(0, {"val": 0.3}), (1, {"loss": 1.0, "val": 0.4})]


def test_a_torn_line_is_repaired_by_the_next_writer(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append(1, "a", {"loss": 1.0})
    with log.path.open("ab") as file:
        file.write(b'{"step": 2, "line')
    assert [row.step for row in read_metrics(log.path)] == [1]
    MetricsLog(log.path).append(2, "a", {"loss": 0.5})
    assert [row.step for row in read_metrics(log.path)] == [1, 2]


def test_rows_after_the_restored_checkpoint_are_kept_aside_once(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for step in range(6):
        log.append(step, "a", {"n": step})
    assert log.resume(3).superseded == 2
    assert log.resume(3).superseded == 0
    assert [row.step for row in read_metrics(log.path)] == [0, 1, 2, 3]
    assert [row.step for row in read_metrics(log.superseded_path)] == [4, 5]


def test_missing_rows_are_named(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append(1, "a", {})
    assert log.resume(3).missing == (2, 3)


def test_a_damaged_line_ends_no_reader_and_is_moved_away_by_the_next_writer(tmp_path):
    """A glued line, as a writer without room left it: everything else is read, by the run's next start too."""
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for step in (1, 3, 4):
        log.append(step, "a", {"n": step})
    first, *rest = log.path.read_bytes().splitlines(keepends=True)
    damaged = first + b'{"step": 2, "lin{"step": 2, "lineage": "a", "data": {}}\n' + b"".join(rest)
    log.path.write_bytes(damaged)
    assert [row.step for row in read_metrics(log.path)] == [1, 3, 4] and log.path.read_bytes() == damaged
    problem = damaged_rows(log.path)
    assert problem.id == "SWERL-R051" and problem.where == f"{log.path}:2"

    again = MetricsLog(log.path)
    assert again.damaged == problem and again.resume(4).missing == (2,)
    assert damaged_rows(log.path) is None and (tmp_path / "metrics.damaged").read_bytes() == damaged
    assert [row.step for row in read_metrics(log.path)] == [1, 3, 4]


class Killed(Exception):
    pass


@settings(max_examples=60, deadline=None)
@given(
    kills=st.lists(st.tuples(st.integers(1, 6), st.sampled_from(["begin", "appended", "marked", "resuming"])), max_size=6),
    save_every=st.integers(1, 3),
)
def test_any_kills_leave_every_step_exactly_once(kills, save_every):
    """A trainer that appends its row and then moves its marker, killed at any point between, over and over."""
    total = 6
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "metrics.jsonl"
        marker = 0
        pending = list(kills)
        for life in range(len(kills) + 1):
            at = pending.pop(0) if pending else None

            def die(step, point, at=at):
                if at == (step, point):
                    raise Killed

            try:
                log = MetricsLog(path)
                result = log.resume(marker)
                assert result.missing == ()
                die(marker + 1, "resuming")
                for step in range(marker + 1, total + 1):
                    die(step, "begin")
                    log.append(step, f"life{life}", {"n": step})
                    die(step, "appended")
                    if step % save_every == 0 or step == total:
                        marker = step
                        die(step, "marked")
            except Killed:
                continue
        MetricsLog(path).resume(marker)
        rows = read_metrics(path)
        assert [row.step for row in rows] == list(range(1, marker + 1))
        lines = path.read_bytes().splitlines() if path.exists() else []
        assert len(lines) == len(rows), "no doubles in the file itself"
        assert marker == total or pending == []
