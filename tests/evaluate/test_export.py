"""Exporting a checkpoint: the directory loads, answers as the shards do, and a wrong one is refused. Real torch, a very small model."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from swerl.config.schema import PROJECT_ROOT
from swerl.errors import SwerlError
from swerl.evaluate import policies
from swerl.evaluate.export import RECORD, export
from swerl.trainer.checkpoints import commit

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
