"""Indexes: what is written comes back, wherever the set is moved; bad rows are named; merge, split and select keep their promises."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from swerl.cli.data import data
from swerl.data import index
from swerl.data.generate.__main__ import write_sets
from swerl.data.index import Entry
from swerl.errors import SwerlError


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    assert write_sets(tmp_path / "set", {"train": 6, "val": 3}, {"train": 1, "val": 2})
    return tmp_path / "set"


def entries(number: int) -> list[Entry]:
    return [Entry(Path(f"/t/{i}"), f"sha256:{i:064x}", f"t{i}", "train", "fix it") for i in range(number)]


def test_rows_have_the_agreed_columns(sets: Path) -> None:
    row = pq.read_table(sets / "train.parquet").to_pylist()[2]
    assert row["prompt"] == [{"role": "user", "content": index.read(sets / "train.parquet")[2].instruction}]
    assert row["reward_model"] == {"style": "rule", "ground_truth": None}
    assert row["extra_info"]["index"] == 2 and row["extra_info"]["split"] == "train"
    assert row["extra_info"]["task_path"].startswith("train/train-0002-")


def test_a_moved_set_is_still_sound(sets: Path, tmp_path: Path) -> None:
    shutil.move(sets, tmp_path / "elsewhere")
    assert index.verify(tmp_path / "elsewhere" / "train.parquet") == []


def test_write_read_round_trip(tmp_path: Path) -> None:
    index.write(tmp_path / "deep" / "i.parquet", entries(5))
    assert index.read(tmp_path / "deep" / "i.parquet") == entries(5)


def test_making_the_same_set_again_does_nothing_and_another_seed_makes_another(sets: Path) -> None:
    before = index.read(sets / "train.parquet")
    assert not write_sets(sets, {"train": 6, "val": 3}, {"train": 1, "val": 2})
    assert write_sets(sets, {"train": 6, "val": 3}, {"train": 5, "val": 2})
    assert not {item.task_hash for item in before} & {item.task_hash for item in index.read(sets / "train.parquet")}


def test_verify_names_the_row_whose_task_changed_or_is_gone(sets: Path) -> None:
    first, second = (item.path for item in index.read(sets / "val.parquet")[:2])
    (first / "instruction.md").write_text("something else")
    shutil.rmtree(second)
    problems = index.verify(sets / "val.parquet")
    assert [(problem.id, problem.where.rsplit(" ", 1)[1]) for problem in problems] == [("SWERL-D006", "0"), ("SWERL-D005", "1")]
    assert [problem.id for problem in index.verify(sets / "val.parquet", hashes=False)] == ["SWERL-D005"]


@pytest.mark.parametrize(
    ("prepare", "wanted"),
    [
        (lambda path: None, "SWERL-D004"),
        (lambda path: path.write_bytes(b"not parquet"), "SWERL-D004"),
        (lambda path: pq.write_table(pa.table({"prompt": ["x"]}), path), "SWERL-D003"),
        (lambda path: pq.write_table(pa.Table.from_pylist([_broken_row()]), path), "SWERL-D003"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, prepare, wanted: str) -> None:
    prepare(tmp_path / "i.parquet")
    with pytest.raises(SwerlError) as caught:
        index.read(tmp_path / "i.parquet")
    assert caught.value.problems[0].id == wanted


def _broken_row() -> dict:
    info = {"task_path": "a", "task_hash": None, "task_id": "t", "split": "train"}
    return {"prompt": [{"role": "user", "content": "x"}], "data_source": "harbor", "extra_info": info}


def test_a_directory_without_tests_is_no_task(sets: Path) -> None:
    task = index.read(sets / "val.parquet")[0].path
    (task / "tests" / "test.sh").unlink()
    with pytest.raises(SwerlError, match=r"tests/test\.sh missing"):
        index.build(sets / "val", "val")


def test_merge_keeps_each_content_once() -> None:
    assert index.merge([entries(3), entries(5)]) == entries(5)


@given(st.integers(0, 1000), st.integers(1, 200), st.floats(0.05, 0.95))
def test_split_is_a_partition_that_growth_does_not_disturb(seed: int, number: int, share: float) -> None:
    train, val = index.split(entries(number), share, seed)
    assert sorted(item.task_id for item in (*train, *val)) == sorted(item.task_id for item in entries(number))
    assert {item.split for item in train} <= {"train"} and {item.split for item in val} <= {"val"}
    more_train, more_val = index.split(entries(number + 50), share, seed)
    assert more_train[: len(train)] == train and more_val[: len(val)] == val


def test_split_share_is_met_roughly() -> None:
    assert 150 < len(index.split(entries(1000), 0.2, 1)[1]) < 250


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0])
def test_a_split_that_empties_a_side_is_refused(share: float) -> None:
    with pytest.raises(SwerlError, match="SWERL-D007"):
        index.split(entries(3), share, 1)


def test_select_limits_and_keeps_the_order() -> None:
    chosen = index.select(entries(20), lambda item: item.task_id != "t3", limit=5, seed=1)
    assert len(chosen) == 5 and chosen == sorted(chosen, key=lambda item: int(item.task_id[1:]))
    assert chosen == index.select(entries(20), lambda item: item.task_id != "t3", limit=5, seed=1)


def test_commands_build_check_merge_split_and_filter(sets: Path, tmp_path: Path) -> None:
    def call(*words: str | Path, code: int = 0) -> str:
        done = CliRunner().invoke(data, [str(word) for word in words])
        assert done.exit_code == code, done.output
        return done.output

    call("index", "build", sets / "train", tmp_path / "a.parquet")
    call("index", "merge", tmp_path / "a.parquet", sets / "train.parquet", sets / "val.parquet", "--out", tmp_path / "b.parquet")
    assert "9 rows, 0 problems" in call("index", "check", tmp_path / "b.parquet")
    call("index", "split", tmp_path / "b.parquet", "--val-share", "0.5", "--out-dir", tmp_path / "halves")
    halves = [len(index.read(tmp_path / "halves" / f"{side}.parquet")) for side in ("train", "val")]
    assert sum(halves) == 9 and min(halves) > 0
    (tmp_path / "r.json").write_text(f'{{"{index.read(tmp_path / "b.parquet")[0].task_hash}": [1, 0, null]}}')
    assert "1 tasks kept" in call("filter", tmp_path / "b.parquet", tmp_path / "r.json", tmp_path / "c.parquet")
    (index.read(sets / "val.parquet")[0].path / "instruction.md").write_text("changed")
    assert "SWERL-D006" in call("index", "check", tmp_path / "b.parquet", code=1)
