"""One rank of two that write a checkpoint as verl does: ``RANK=0|1 python two_ranks.py DIRECTORY shards|copies``, both at once.

A small model is made alike on both, given to FSDP2 on gloo, trained one step on different rows, and saved by verl's own checkpoint
manager: ``DIRECTORY/actor``. Its logits for `tokens`, computed through FSDP, go to ``DIRECTORY/logits.pt``. With ``shards`` each
rank holds a half of every tensor; with ``copies`` the mesh is (2, 1) and each holds the whole, as with a ``fsdp_size`` below the ranks.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

VOCABULARY = 97  # odd: rows are not shared out evenly


def tokens() -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (4, 32), generator=torch.Generator().manual_seed(3))


def main(root: Path, copies: bool) -> None:
    from omegaconf import OmegaConf
    from torch.distributed.device_mesh import init_device_mesh
    from transformers import Qwen2Config, Qwen2ForCausalLM
    from verl.utils.checkpoint.fsdp_checkpoint_manager import FSDPCheckpointManager
    from verl.utils.fsdp_utils import apply_fsdp2

    rank = int(os.environ["RANK"])
    torch.distributed.init_process_group("gloo", init_method=f"file://{root}/meeting", rank=rank, world_size=2)
    size, names = ((2, 1), ("ddp", "fsdp")) if copies else ((2,), ("fsdp",))
    mesh = init_device_mesh("cpu", size, mesh_dim_names=names)
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=VOCABULARY, **shape, tie_word_embeddings=False, architectures=["Qwen2ForCausalLM"]))
    apply_fsdp2(model, {"mesh": mesh}, {"wrap_policy": {"transformer_layer_cls_to_wrap": ["Qwen2DecoderLayer"]}})
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    rows = tokens()[rank::2]
    model(input_ids=rows, labels=rows).loss.backward()
    optimizer.step()
    contents = OmegaConf.create({"load": ["model"], "save": ["model", "optimizer", "extra"]})
    FSDPCheckpointManager(model, optimizer, checkpoint_config=contents).save_checkpoint(str(root / "actor"), global_step=1)
    with torch.no_grad():
        logits = model(input_ids=tokens()).logits
    if rank == 0:
        torch.save(logits, root / "logits.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] == "copies")
