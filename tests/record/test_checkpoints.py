"""A checkpoint counts exactly when its marker is complete and its files are what was committed."""

import shutil

import pytest

from swerl.record import checkpoints
from swerl.record.lineage import current_lineage, open_lineage, read_lineages


def write_step(root, step, size=3 << 20):
    path = root / f"global_step_{step}"
    (path / "actor").mkdir(parents=True)
    (path / "actor" / "model_world_size_1_rank_0.pt").write_bytes(bytes([step]) * size)
    (path / "data.pt").write_bytes(b"loader")
    return path


def test_newest_passes_over_what_was_not_committed(tmp_path):
    checkpoints.commit(write_step(tmp_path, 4), 4, "L1:4")
    write_step(tmp_path, 8)
    found, passed_over = checkpoints.newest(tmp_path)
    assert (found.step, found.version) == (4, "L1:4")
    assert "global_step_8" in passed_over[0]


@pytest.mark.parametrize("damage", ["truncate", "head", "tail", "remove", "torn marker", "renamed"])
def test_damage_is_found(tmp_path, damage):
    path = write_step(tmp_path, 4)
    checkpoints.commit(path, 4, "L1:4")
    shard = path / "actor" / "model_world_size_1_rank_0.pt"
    content = bytearray(shard.read_bytes())
    if damage == "truncate":
        shard.write_bytes(content[:-1])
    elif damage == "head":
        content[0] ^= 1
        shard.write_bytes(content)
    elif damage == "tail":
        content[-1] ^= 1
        shard.write_bytes(content)
    elif damage == "remove":
        shard.unlink()
    elif damage == "torn marker":
        marker = path / checkpoints.MARKER
        marker.write_bytes(marker.read_bytes()[:-20])
    else:
        path = path.rename(tmp_path / "global_step_5")
    assert checkpoints.faults(path)
    assert checkpoints.newest(tmp_path)[0] is None


def test_small_and_large_files_are_digested_alike(tmp_path):
    for step, size in ((1, 10), (2, 1 << 20), (3, (1 << 20) + 1), (4, 5 << 20)):
        path = write_step(tmp_path, step, size)
        checkpoints.commit(path, step, f"L1:{step}")
        assert checkpoints.faults(path) == []


def test_a_checkpoint_without_weights_is_refused(tmp_path):
    (tmp_path / "global_step_1" / "actor").mkdir(parents=True)
    with pytest.raises(FileNotFoundError):
        checkpoints.commit(tmp_path / "global_step_1", 1, "L1:1")


def test_retention_keeps_the_newest_and_leaves_the_unfinished(tmp_path):
    for step in (1, 2, 3):
        checkpoints.commit(write_step(tmp_path, step), step, f"L1:{step}")
    write_step(tmp_path, 4)
    gone = checkpoints.retain(tmp_path, 2)
    assert [p.name for p in gone] == ["global_step_1"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["global_step_2", "global_step_3", "global_step_4"]
    assert checkpoints.retain(tmp_path, None) == []
    assert [p.name for p in checkpoints.discard_uncommitted(tmp_path)] == ["global_step_4"]


def test_versions_name_weights_not_steps(tmp_path):
    """Step 7 trained again after a crash is another policy; the restored weights keep their name."""
    file = tmp_path / "lineage.json"
    first = open_lineage(file, None)
    assert [first.version(s) for s in (0, 1, 7)] == ["init:0", "L1:1", "L1:7"]
    restored = checkpoints.commit(write_step(tmp_path, 4), 4, first.version(4))
    second = open_lineage(file, restored)
    assert [second.version(s) for s in (4, 5, 7)] == ["L1:4", "L2:5", "L2:7"]
    assert current_lineage(file) == second
    assert [entry["epoch"] for entry in read_lineages(file)] == [1, 2]
    with pytest.raises(ValueError):
        second.version(3)


NEIGHBOURS = (
    *("global_step_4.bak", "global_step_4_hf", "global_step_", "global_step_x", "global_step_04", "global_step_-1"),
    *("global_step_\u0664", "my_global_step_9", "global_step_9 ", "global_step_9\n", "latest"),
)


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_what_a_user_keeps_beside_checkpoints_is_neither_read_nor_deleted(tmp_path, name):
    checkpoints.commit(write_step(tmp_path, 4), 4, "L1:4")
    shutil.copytree(tmp_path / "global_step_4", tmp_path / name)  # with a marker
    (tmp_path / "global_step_7_export").mkdir()
    (tmp_path / "global_step_7_export" / "model.safetensors").write_bytes(b"precious")
    (tmp_path / "global_step_8").write_text("a file of this name")
    assert checkpoints.newest(tmp_path)[0].step == 4
    assert checkpoints.discard_uncommitted(tmp_path) == [] and checkpoints.retain(tmp_path, 1) == []
    assert checkpoints.faults(tmp_path / name), "a copy under another name is no checkpoint"
    assert [path.name for path in checkpoints.retain(tmp_path, 0)] == ["global_step_4"]
    assert {path.name for path in tmp_path.iterdir()} == {name, "global_step_7_export", "global_step_8"}
    assert (tmp_path / name / "actor" / "model_world_size_1_rank_0.pt").exists()


def test_a_link_to_a_checkpoint_is_read_and_what_it_leads_to_is_kept(tmp_path):
    elsewhere, root = tmp_path / "big disk", tmp_path / "checkpoints"
    root.mkdir()
    checkpoints.commit(write_step(elsewhere, 4), 4, "L1:4")
    (root / "global_step_4").symlink_to(elsewhere / "global_step_4")
    (root / "global_step_5").symlink_to(elsewhere)
    assert checkpoints.newest(root)[0].step == 4
    assert checkpoints.discard_uncommitted(root) == checkpoints.retain(root, 0) == []
    assert checkpoints.faults(elsewhere / "global_step_4") == []


@pytest.mark.parametrize("marker", [b"[]", b'{"step": 4, "files": []}', b'{"step": 4, "files": {"data.pt": 1}}', b'{"step": 4}', b"\xff"])
def test_a_marker_of_another_form_is_a_fault_and_no_traceback(tmp_path, marker):
    path = write_step(tmp_path, 4)
    (path / checkpoints.MARKER).write_bytes(marker)
    assert checkpoints.faults(path) and checkpoints.newest(tmp_path)[0] is None
