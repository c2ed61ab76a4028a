"""One rank of two that train adapters and save them as verl does: ``RANK=0|1 python adapter_ranks.py DIRECTORY``, both at once.

The frozen weights are bfloat16 and the adapters float32, as `RunEngine` has them; FSDP2 on gloo computes in bfloat16. DIRECTORY/base is the
policy before, DIRECTORY/actor what verl's checkpoint manager writes. A second pair, made anew and given the checkpoint, must have the
first one's adapters; its logits for `tokens` go to DIRECTORY/logits.pt.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import torch

VOCABULARY = 97
TARGETS = ["q_proj", "v_proj", "down_proj"]


def tokens() -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (4, 32), generator=torch.Generator().manual_seed(3))


def adapted(base: Path, mesh):
    """The policy with fresh adapters, under FSDP2."""
    from torch.distributed.fsdp import MixedPrecisionPolicy
    from transformers import AutoModelForCausalLM
    from verl.utils.fsdp_utils import apply_fsdp2

    from swerl.trainer.engine import RunEngine

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    torch.manual_seed(7)
    engine = object.__new__(RunEngine)  # the engine's own building of adapters, without its processes
    settings = {"lora_rank": 4, "lora_alpha": 12, "target_modules": TARGETS, "target_parameters": None, "exclude_modules": None}
    engine.model_config = SimpleNamespace(**settings, lora_adapter_path=None)
    model = engine._build_lora_module(model)
    precision = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    apply_fsdp2(model, {"mesh": mesh, "mp_policy": precision}, {"wrap_policy": {"transformer_layer_cls_to_wrap": ["Qwen2DecoderLayer"]}})
    return model


def main(root: Path) -> None:
    from omegaconf import OmegaConf
    from torch.distributed.device_mesh import init_device_mesh
    from verl.utils.checkpoint.fsdp_checkpoint_manager import FSDPCheckpointManager

    rank = int(os.environ["RANK"])
    torch.distributed.init_process_group("gloo", init_method=f"file://{root}/meeting", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("fsdp",))
    model = adapted(root / "base", mesh)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    rows = tokens()[rank::2]
    for _ in range(3):
        model(input_ids=rows, labels=rows).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert {p.dtype for p in trained} == {torch.float32} and {s["exp_avg"].dtype for s in optimizer.state.values()} == {torch.float32}
    contents = OmegaConf.create({"load": ["model"], "save": ["model", "optimizer", "extra"], "save_lora_only": True})
    FSDPCheckpointManager(model, optimizer, checkpoint_config=contents).save_checkpoint(str(root / "actor"), global_step=1)

    again = adapted(root / "base", mesh)
    optimizer = torch.optim.AdamW([p for p in again.parameters() if p.requires_grad], lr=1e-2)
    FSDPCheckpointManager(again, optimizer, checkpoint_config=contents).load_checkpoint(str(root / "actor"))
    for (name, before), after in zip(model.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(before.to_local(), after.to_local()), name
    with torch.no_grad():
        logits = again(input_ids=tokens()).logits
    if rank == 0:
        torch.save(logits, root / "logits.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
