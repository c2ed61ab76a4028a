"""Exporting a checkpoint: the directory loads, answers as the shards do, and a wrong one is refused. Real torch, a very small model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from swerl.config.schema import PROJECT_ROOT
from swerl.errors import SwerlError
from swerl.evaluate import policies
from swerl.evaluate.export import RECORD, export
from swerl.record.checkpoints import commit

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow
CONFIG = SimpleNamespace(environment=SimpleNamespace(venv_path=PROJECT_ROOT / ".venv" / "train"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the trainer writes one: shards, the model in Hugging Face's form, the marker."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=97, **shape, tie_word_embeddings=False))
    root = tmp_path_factory.mktemp("export") / "run" / "checkpoints" / "global_step_8"
    (root / "actor").mkdir(parents=True)
    torch.save(model.state_dict(), root / "actor" / "model_world_size_1_rank_0.pt")
    model.save_pretrained(root / "actor" / "huggingface")
    commit(root, 8, "L1:8")
    return root


def test_export_loads_and_answers_as_the_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / "policy"
    record = export(policies.choose(CONFIG, str(checkpoint)), CONFIG, target, lambda text: None)
    assert record["check"]["largest_difference"] <= 1e-5 and record["check"]["same_choices"] == 1.0
    assert json.loads((target / RECORD).read_text())["version"] == "L1:8"
    assert policies.has_weights(target) and [p.name for p in target.parent.iterdir()] == ["policy"]
    with pytest.raises(SwerlError, match="SWERL-T066"):
        export(policies.choose(CONFIG, str(checkpoint)), CONFIG, target, lambda text: None)


@pytest.mark.parametrize("mesh", ["shards", pytest.param("copies", marks=pytest.mark.long)])
def test_a_checkpoint_of_two_ranks(tmp_path: Path, mesh: str) -> None:
    """Written by two processes with verl's FSDP2 and its checkpoint manager, merged by verl: the export answers as the two did together."""
    from transformers import AutoModelForCausalLM

    from .two_ranks import tokens

    root = tmp_path / "run" / "checkpoints" / "global_step_1"
    root.mkdir(parents=True)
    script = Path(__file__).with_name("two_ranks.py")
    ranks, logs = [], [tmp_path / f"{rank}.log" for rank in range(2)]
    for rank, log in enumerate(logs):
        env = {**os.environ, "RANK": str(rank), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        with log.open("wb") as out:
            ranks.append(subprocess.Popen([sys.executable, str(script), str(root), mesh], env=env, stdout=out, stderr=out))
    try:
        assert [rank.wait(300) for rank in ranks] == [0, 0], "".join(log.read_text()[-2000:] for log in logs)
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    commit(root, 1, "L1:1")

    record = export(policies.choose(CONFIG, str(root)), CONFIG, tmp_path / "policy", lambda text: None)
    assert record["check"]["same_choices"] == 1.0 and not list(tmp_path.glob(".*")), "nothing is left of the merging"
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "policy", dtype=torch.float32).eval()
    with torch.inference_mode():
        found = exported(tokens()).logits
    # weights are float32 in the shards, bfloat16 in the export
    torch.testing.assert_close(found, torch.load(root / "logits.pt"), rtol=0.02, atol=0.01)


def test_weights_that_are_not_the_checkpoints_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    policy = policies.choose(CONFIG, str(checkpoint))
    weights = next((checkpoint / "actor" / "huggingface").glob("*.safetensors"))
    kept = weights.read_bytes()
    changed = {name: tensor * 3 if "mlp" in name else tensor for name, tensor in load_file(weights).items()}
    save_file(changed, weights, {"format": "pt"})
    try:
        with pytest.raises(SwerlError, match="SWERL-T067"):
            export(policy, CONFIG, tmp_path / "policy", lambda text: None)
    finally:
        weights.write_bytes(kept)
    assert not list(tmp_path.iterdir()), "nothing is left of it"


def test_what_is_no_checkpoint_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    policy = policies.choose(CONFIG, str(checkpoint / "actor" / "huggingface"))
    with pytest.raises(SwerlError, match="SWERL-T066"):
        export(policy, CONFIG, tmp_path / "policy", lambda text: None)
