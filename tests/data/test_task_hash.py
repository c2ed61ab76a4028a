"""The content identity of a task: what counts and what does not."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swerl.data import task_hash

NAMES = st.text(st.sampled_from("abc.-_"), min_size=1, max_size=6).filter(lambda name: name.strip(".") and not name.endswith(".pyc"))
TREES = st.dictionaries(NAMES, st.binary(max_size=20), min_size=1, max_size=4)


def make(root: Path, files: dict[str, bytes]) -> Path:
    root.mkdir()
    for name, content in files.items():
        (root / name).write_bytes(content)
    return root


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(TREES, TREES)
def test_equal_hash_exactly_for_equal_trees(
    tmp_path_factory: pytest.TempPathFactory, one: dict[str, bytes], other: dict[str, bytes]
) -> None:
    base = tmp_path_factory.mktemp("trees")
    assert (task_hash(make(base / "one", one)) == task_hash(make(base / "other", other))) == (one == other)


def test_place_time_and_caches_do_not_count(tmp_path: Path) -> None:
    one = make(tmp_path / "one", {"test.sh": b"x"})
    shutil.copytree(one, tmp_path / "other")
    os.utime(tmp_path / "other" / "test.sh", (1, 1))
    (tmp_path / "other" / "__pycache__").mkdir()
    (tmp_path / "other" / "__pycache__" / "m.pyc").write_bytes(b"cache")
    assert task_hash(one) == task_hash(tmp_path / "other")


def test_execute_bit_and_link_target_count(tmp_path: Path) -> None:
    root = make(tmp_path / "one", {"test.sh": b"x"})
    plain = task_hash(root)
    (root / "test.sh").chmod(0o755)
    executable = task_hash(root)
    (root / "link").symlink_to("test.sh")
    linked = task_hash(root)
    (root / "link").unlink()
    (root / "link").symlink_to("elsewhere")
    assert len({plain, executable, linked, task_hash(root)}) == 4


def test_moving_bytes_between_name_and_content_changes_the_hash(tmp_path: Path) -> None:
    assert task_hash(make(tmp_path / "one", {"ab": b"c"})) != task_hash(make(tmp_path / "other", {"a": b"bc"}))


def test_no_directory(tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError):
        task_hash(tmp_path / "missing")
