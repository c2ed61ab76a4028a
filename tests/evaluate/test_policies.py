"""Which policy a name means; a checkpoint is verified before anything is served from it."""

import json
from types import SimpleNamespace

import pytest

from swerl.errors import SwerlError
from swerl.evaluate import policies
from swerl.record import checkpoints


def model(path, weights=b"w" * 100):
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    (path / "model.safetensors").write_bytes(weights)
    return path


def checkpoint(root, step, whole=True):
    path = root / f"global_step_{step}"
    (path / "actor" / "huggingface").mkdir(parents=True)
    (path / "actor" / "model_world_size_1_rank_0.pt").write_bytes(b"shard")
    (path / "actor" / "huggingface" / "config.json").write_text("{}")
    if whole:
        (path / "actor" / "huggingface" / "model.safetensors").write_bytes(b"w")
    checkpoints.commit(path, step, f"abc:{step}")
    return path


def config(tmp_path):
    return SimpleNamespace(run_dir=tmp_path / "runs" / "x", model=SimpleNamespace(model_path=tmp_path / "base"))


def test_without_a_name_the_newest_checkpoint_and_before_one_the_base(tmp_path):
    model(tmp_path / "base")
    chosen = policies.choose(config(tmp_path), None)
    assert chosen.kind == "huggingface" and chosen.path == tmp_path / "base" and chosen.version.startswith("hf-")
    for step in (3, 6):
        newest = checkpoint(tmp_path / "runs" / "x" / "checkpoints", step)
    chosen = policies.choose(config(tmp_path), None)
    assert (chosen.kind, chosen.version, chosen.path) == ("checkpoint", "abc:6", newest / "actor" / "huggingface")
    (newest / "actor" / "model_world_size_1_rank_0.pt").write_bytes(b"cut")
    assert policies.choose(config(tmp_path), None).version == "abc:3"
    with pytest.raises(SwerlError, match="SWERL-T061"):
        policies.choose(config(tmp_path), str(newest))


def test_a_checkpoint_without_an_export_has_shards_to_merge(tmp_path):
    chosen = policies.choose(config(tmp_path), str(checkpoint(tmp_path, 4, whole=False)))
    assert chosen.path is None and chosen.shards == tmp_path / "global_step_4" / "actor"


def test_a_url_and_what_is_no_policy(tmp_path):
    chosen = policies.choose(config(tmp_path), "http://127.0.0.1:9/v1/")
    assert (chosen.kind, chosen.url, chosen.path) == ("url", "http://127.0.0.1:9/v1", None)
    with pytest.raises(SwerlError, match="SWERL-T060"):
        policies.choose(config(tmp_path), str(tmp_path))
    (tmp_path / "runs" / "y" / "checkpoints").mkdir(parents=True)
    with pytest.raises(SwerlError, match="SWERL-T061"):
        policies.choose(config(tmp_path), str(tmp_path / "runs" / "y"))


def test_a_policy_is_named_by_what_it_holds(tmp_path):
    one, same, other = (model(tmp_path / name, weights) for name, weights in (("1", b"a" * 9), ("2", b"a" * 9), ("3", b"b" * 9)))
    (same / ".lock").write_text("not part of it")
    assert policies.content_digest(one) == policies.content_digest(same) != policies.content_digest(other)
    (other / "model.safetensors").write_bytes(b"a" * 9)
    (other / "tokenizer.json").write_text(json.dumps({}))
    assert policies.content_digest(one) != policies.content_digest(other)
