"""A checkpoint of adapters: what it stands on is checked, and what is made of it answers as the trainer's policy did."""

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
from swerl.evaluate.export import export
from swerl.record import base
from swerl.record.checkpoints import commit

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow


def quiet(text: str) -> None:
    pass


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of two ranks, trained by FSDP2 on frozen bfloat16 weights; ``base`` is beside the run."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from .adapter_ranks import VOCABULARY

    root = tmp_path_factory.mktemp("adapters") / "run" / "checkpoints" / "global_step_1"
    root.mkdir(parents=True)
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    policy = Qwen2ForCausalLM(Qwen2Config(vocab_size=VOCABULARY, **shape, tie_word_embeddings=False))
    policy.to(torch.bfloat16).save_pretrained(root / "base")
    script, ranks = Path(__file__).with_name("adapter_ranks.py"), []
    logs = [root.parent / f"{rank}.log" for rank in range(2)]
    for rank, log in enumerate(logs):
        env = {**os.environ, "RANK": str(rank), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        with log.open("wb") as out:
            ranks.append(subprocess.Popen([sys.executable, str(script), str(root)], env=env, stdout=out, stderr=out))
    try:
        assert [rank.wait(300) for rank in ranks] == [0, 0], "".join(log.read_text()[-2000:] for log in logs)
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    (root / "base").rename(root.parents[1] / "base")
    base.write(root / "actor", root.parents[1] / "base")
    commit(root, 1, "L1:1")
    return root


@pytest.fixture(scope="module")
def config(made: Path) -> SimpleNamespace:
    environment = SimpleNamespace(venv_path=PROJECT_ROOT / ".venv" / "train")
    return SimpleNamespace(environment=environment, model=SimpleNamespace(model_path=made.parents[1] / "base"))


def logits(directory: Path, under: Path | None = None):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from .adapter_ranks import tokens

    model = AutoModelForCausalLM.from_pretrained(under or directory, dtype=torch.float32)
    model = (PeftModel.from_pretrained(model, str(directory)) if under else model).eval()
    with torch.inference_mode():
        return model(tokens()).logits


def test_the_checkpoint_holds_adapters_alone(made: Path):
    [shard] = (made / "actor").glob("model_world_size_2_rank_0.pt")
    state = torch.load(shard, weights_only=False)
    assert len(state) == 2 * 2 * 3 and all(".lora_" in name for name in state)


@pytest.mark.parametrize("adapter", [False, True], ids=["merged", "peft"])
def test_exports_answer_as_the_ranks_did(made: Path, config, tmp_path: Path, adapter: bool):
    """The ranks computed in bfloat16, and merged weights are rounded to it."""
    record = export(policies.choose(config, str(made)), config, tmp_path / "policy", quiet, adapter=adapter)
    assert record["check"]["same_choices"] >= (1.0 if adapter else 0.95) and record["base"] == str(config.model.model_path)
    found = logits(tmp_path / "policy", config.model.model_path if adapter else None)
    there, before = torch.load(made / "logits.pt").float(), logits(config.model.model_path)
    assert (found - there).abs().max() < 0.1 * (found - before).abs().max(), "nearer to the trained policy than to the one before"
    assert policies.has_weights(tmp_path / "policy") is not adapter or adapter


def test_merging_adds_alpha_over_rank_times_b_a(made: Path, config, tmp_path: Path):
    """By hand, for every weight of the base."""
    from safetensors.torch import load_file

    from swerl.policy.same_logits import whole_tensors

    merged = policies.merged(policies.choose(config, str(made)), config, tmp_path, quiet)
    before, after = load_file(config.model.model_path / "model.safetensors"), load_file(merged / "model.safetensors")
    state = whole_tensors(made / "actor")
    changed = 0
    for name, tensor in before.items():
        key = f"base_model.model.{name.removesuffix('.weight')}.lora_{{}}.default.weight"
        wanted = tensor.float()
        if key.format("A") in state:
            wanted = wanted + 12 / 4 * state[key.format("B")] @ state[key.format("A")]
            changed += 1
        torch.testing.assert_close(after[name], wanted.to(torch.bfloat16), rtol=0.01, atol=1e-3)
    assert changed == 2 * 3 and after.keys() == before.keys()


def test_a_peft_directory_is_a_policy(made: Path, config, tmp_path: Path):
    """What was exported with --adapter is evaluated as it is: merged once into the weights it names, or into the configuration's."""
    export(policies.choose(config, str(made)), config, tmp_path / "adapter", quiet, adapter=True)
    for name in (str(config.model.model_path), "Some/Hub-Name"):
        said = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
        (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps({**said, "base_model_name_or_path": name}))
        policy = policies.choose(config, str(tmp_path / "adapter"))
        assert policy.base == config.model.model_path and policy.version.startswith("peft-") and policy.path is None
    merged = policies.merged(policy, config, tmp_path / "policy", quiet)
    there = logits(tmp_path / "adapter", config.model.model_path)
    assert (logits(merged) - there).abs().max() < 0.02 * there.abs().max()
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps({**said, "use_dora": True}))
    with pytest.raises(SwerlError, match=r"SWERL-T062.*use_dora"):
        policies.merged(policies.choose(config, str(tmp_path / "adapter")), config, tmp_path / "other", quiet)


def test_another_base_is_refused(made: Path, config):
    """Weights of the same shape would load without an error."""
    weights = config.model.model_path / "model.safetensors"
    kept = weights.read_bytes()
    weights.write_bytes(kept[:-2] + bytes(2))
    try:
        with pytest.raises(SwerlError, match=r"SWERL-T061.*model.safetensors is not the file that the adapters were trained on"):
            policies.choose(config, str(made))
    finally:
        weights.write_bytes(kept)
    assert policies.choose(config, str(made)).base == config.model.model_path


def test_a_whole_policy_has_no_adapter_to_export(made: Path, config, tmp_path: Path):
    policy = policies.Policy("checkpoint", str(made), "L1:1", path=config.model.model_path)
    with pytest.raises(SwerlError, match=r"SWERL-T066.*holds no adapters"):
        export(policy, config, tmp_path / "policy", quiet, adapter=True)
