"""Whether an exported directory is the policy of a checkpoint: ``python -m swerl.policy.same_logits SHARDS EXPORT [BASE]``, one JSON line.

The checkpoint's weights are read from the trainer's own shards (``model_world_size_N_rank_*.pt``), put together here and not by what made
the export, and given to a model of the export's ``config.json``. Both models answer the same tokens in float32; the largest difference of
their logits is told, and which tensors of the shards the export does not have. Shards of adapters stand on BASE; there PEFT itself
computes what they say, and the export is either merged weights or an adapter of PEFT's.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed.tensor  # the type of what a shard holds

PROMPTS, LENGTH = 4, 64
_SHARD = re.compile(r"model_world_size_(\d+)_rank_(\d+)\.pt")


def whole_tensors(shards: Path) -> dict[str, torch.Tensor]:
    """The state dict of all ranks: FSDP2's DTensors are joined along the dimension they are sharded by, the rest is the same everywhere.

    The last dimension of their mesh is the one of the shards; a dimension before it repeats them (verl's ``fsdp_size``)."""
    files = sorted(
        ((int(m[2]), path) for path in shards.glob("model_world_size_*.pt") if (m := _SHARD.fullmatch(path.name))), key=lambda f: f[0]
    )
    states = [torch.load(path, map_location="cpu", weights_only=True) for _, path in files]  # it may be somebody else's
    if not states:
        raise SystemExit(f"no shards in {shards}")
    found = {}
    for name, first in states[0].items():
        if not hasattr(first, "placements"):
            found[name] = first
            continue
        dimensions = [place.dim for place in first.placements if place.is_shard()]
        if len(dimensions) > 1:
            raise SystemExit(f"{name} is sharded along {len(dimensions)} dimensions")
        parts = [state[name].to_local() for state in states[: first.device_mesh.shape[-1]]]
        found[name] = torch.cat(parts, dimensions[0]) if dimensions else parts[0]
    return found


def compare(shards: Path, export: Path, base: Path | None = None) -> dict[str, Any]:
    from transformers import AutoConfig, AutoModelForCausalLM

    state = {name: tensor.float() for name, tensor in whole_tensors(shards).items()}
    config = AutoConfig.from_pretrained(base or export)
    if base is None:
        exported = AutoModelForCausalLM.from_pretrained(export, dtype=torch.float32).eval()
        trained = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        lost = trained.load_state_dict(state, strict=False)
        missing = [name for name in lost.missing_keys if not (config.tie_word_embeddings and name == "lm_head.weight")]
        if config.tie_word_embeddings:
            trained.tie_weights()
    else:
        exported, trained = _adapted(base, export), _with_adapters(base, shards, list(state))
        lost = trained.load_state_dict(state, strict=False)
        missing = [name for name in lost.missing_keys if ".lora_" in name]
    tokens = torch.randint(0, config.vocab_size, (PROMPTS, LENGTH), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        one, other = trained(tokens).logits, exported(tokens).logits
    return {
        "largest_difference": float((one - other).abs().max()),
        "largest_logit": float(one.abs().max()),
        "same_choices": float((one.argmax(-1) == other.argmax(-1)).float().mean()),
        "positions": PROMPTS * LENGTH,
        "missing": missing,
        "unknown": list(lost.unexpected_keys),
    }


def _with_adapters(base: Path, shards: Path, names: list[str]) -> Any:
    """The frozen weights with PEFT's own layers where ``names`` of the shards say there are some."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    said = json.loads((shards / "lora_train_meta.json").read_text())
    layers = sorted({name.partition(".lora_")[0].removeprefix("base_model.model.") for name in names})
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    settings = LoraConfig(r=said["r"], lora_alpha=said["lora_alpha"], target_modules=layers, task_type="CAUSAL_LM")
    return get_peft_model(model, settings).eval()


def _adapted(base: Path, export: Path) -> Any:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    if not (export / "adapter_config.json").is_file():
        return AutoModelForCausalLM.from_pretrained(export, dtype=torch.float32).eval()
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), str(export)).eval()


if __name__ == "__main__":
    print(json.dumps(compare(*map(Path, sys.argv[1:]))))
