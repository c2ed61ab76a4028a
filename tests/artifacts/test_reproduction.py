"""What a reproduction compares, and what it refuses: by name, before anything starts."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from swerl.artifacts import compare
from swerl.artifacts.reproduce import differences, renamed, reproduce
from swerl.config import load_resolved
from swerl.errors import SwerlError
from swerl.record.metrics import Row
from swerl.record.rundir import read_json, write_json

from .test_gather import make_run  # noqa: F401 - a fixture


def never(*args, **kwargs):
    raise AssertionError("nothing may be started")


def test_an_untouched_situation_has_no_difference(make_run):  # noqa: F811
    assert differences(make_run(), "live") == [] == differences(make_run("second"), "recorded")


def model_changed(run, config) -> str:
    path = config.model.model_path / "config.json"
    path.write_text(path.read_text() + "\n")
    return "model.config.json"


def lock_was_another(run, config) -> str:
    return _recorded(run, "locks", "uv.lock")


def commit_was_another(run, config) -> str:
    manifest = read_json(run.manifest)
    manifest["attempts"][-1]["source"]["commit"] = "0" * 40
    write_json(run.manifest, manifest)
    return "source.commit"


def processor_was_another(run, config) -> str:
    return _recorded(run, "machine", "processor")


def _recorded(run, part: str, name: str) -> str:
    manifest = read_json(run.manifest)
    manifest["attempts"][-1]["situation"][part][name] = "another"
    write_json(run.manifest, manifest)
    return f"{part}.{name}"


@pytest.mark.parametrize("alter", [model_changed, lock_was_another, commit_was_another, processor_was_another])
def test_a_difference_is_named_and_nothing_starts(make_run, alter):  # noqa: F811
    run = make_run()
    name = alter(run, load_resolved(run.resolved))
    with pytest.raises(SwerlError, match="SWERL-A021") as refused:
        reproduce(run, "recorded", carry_out=never, notice=never)
    assert [p.message.split(" was ")[0] for p in refused.value.problems] == [name]


def test_an_accepted_difference_lets_it_go_on(make_run):  # noqa: F811
    run = make_run()
    _recorded(run, "machine", "processor")
    with pytest.raises(AssertionError, match="nothing may be started"):
        reproduce(run, "recorded", carry_out=never, notice=lambda text: None, accept=["machine"])


def test_what_was_not_trained_cannot_be_compared(make_run):  # noqa: F811
    run = make_run()
    with pytest.raises(SwerlError, match="SWERL-A022"):
        reproduce(run, "recorded", carry_out=never, notice=never, steps=9)
    run.metrics.write_text("")
    with pytest.raises(SwerlError, match="SWERL-A022"):
        reproduce(run, "recorded", carry_out=never, notice=never)


def test_the_new_run_is_the_old_one_under_another_name(make_run):  # noqa: F811
    run = make_run()
    old = load_resolved(run.resolved)
    new = renamed(run, old, "first.recorded")
    assert new.run_dir == run.root.with_name("first.recorded") and new.experiment.trials_dir.is_relative_to(new.run_dir)
    left, right = old.as_dict(), new.as_dict()
    for values in (left, right):
        values["experiment"].pop("exp_name"), values["experiment"].pop("trials_dir"), values["harbor_runtime"]["sandbox"].pop("work_dir")
    assert left == right


@given(st.dictionaries(st.text("abc/", min_size=1, max_size=4), st.floats() | st.integers() | st.text(max_size=3), max_size=5))
def test_equal_rows_have_no_difference(data):
    rows = [Row(1, "L1", data)]
    assert compare.metrics(rows, [Row(1, "L2", dict(data))]) == []


def test_one_bit_is_a_difference_and_a_clock_is_none():
    then = [Row(1, "L1", {"actor/loss": 0.1, "timing_s/step": 1.0, "perf/throughput": 3.0, "swerl/trials/agent_s/mean": 1.0})]
    now = [Row(1, "L1", {"actor/loss": 0.1 + 2**-55, "timing_s/step": 2.0, "perf/throughput": 4.0, "swerl/trials/agent_s/mean": 2.0})]
    assert [d.name for d in compare.metrics(then, now)] == ["step 1 actor/loss"] and compare.compared(then) == 1
    assert [d.name for d in compare.metrics(then, [])] == ["step 1 actor/loss"]


class Code:
    """What a checkpoint of others could hold beside tensors."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return (exec, (f"open({str(self.mark)!r}, 'w').close()",))


def test_a_checkpoint_of_others_runs_no_code(tmp_path: Path):
    from swerl.policy.same_logits import whole_tensors

    folder = tmp_path / "a" / "actor"
    folder.mkdir(parents=True)
    torch.save({"w": Code(tmp_path / "ran")}, folder / "model_world_size_1_rank_0.pt")
    with pytest.raises(pickle.UnpicklingError):
        compare.weights(tmp_path / "a", tmp_path / "a")
    with pytest.raises(pickle.UnpicklingError):
        whole_tensors(folder)
    assert not (tmp_path / "ran").exists()


def test_shards_of_fsdp_are_tensors_all_the_same(tmp_path: Path):
    """As FSDP2 saves them, read where no process group is."""
    from swerl.policy.same_logits import whole_tensors

    folder = tmp_path / "a" / "actor"
    folder.mkdir(parents=True)
    code = f"""
import torch, torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
whole = distribute_tensor(torch.arange(6.0), init_device_mesh("cpu", (1,), mesh_dim_names=("fsdp",)), [Shard(0)])
torch.save({{"w": whole, "b": torch.zeros(2)}}, {str(folder / "model_world_size_1_rank_0.pt")!r})
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert whole_tensors(folder)["w"].tolist() == [0, 1, 2, 3, 4, 5]
    assert compare.weights(tmp_path / "a", tmp_path / "a") == ([], 2)


def test_weights_are_compared_tensor_by_tensor(tmp_path: Path):
    for name, value in (("a", 1.0), ("b", 1.0), ("c", 1.0 + 2**-23)):
        folder = tmp_path / name / "actor"
        folder.mkdir(parents=True)
        torch.save({"w": torch.full((3,), value), "b": torch.zeros(2)}, folder / "model_world_size_1_rank_0.pt")
    assert compare.weights(tmp_path / "a", tmp_path / "b") == ([], 2)
    found, count = compare.weights(tmp_path / "a", tmp_path / "c")
    assert count == 2 and [d.name for d in found] == ["model_world_size_1_rank_0.pt w"] and "1.19e-07" in str(found[0])
