"""Low-rank adapters, from the trainer's shards or a PEFT directory: written as PEFT reads them, or added to the weights they stand on.

``python -m swerl.policy.adapter peft|merge SOURCE BASE OUT``. BASE is the Hugging Face directory of the frozen weights. ``merge`` goes
through BASE's files one at a time, adds ``alpha / rank * B @ A`` in float32 and keeps each tensor's own type (arXiv 2106.09685, 4.1).
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from swerl.policy.same_logits import whole_tensors

PREFIX = "base_model.model."
CONFIG, WEIGHTS, META = "adapter_config.json", "adapter_model.safetensors", "lora_train_meta.json"
# What PEFT can do to a layer besides adding one product: merging would leave it out.
_OTHER = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "modules_to_save", "fan_in_fan_out", "lora_bias", "target_parameters")


@dataclass(frozen=True, slots=True)
class Adapter:
    """``pairs``: name of a layer in the base -> (A [rank, in], B [out, rank])."""

    rank: int
    alpha: int
    pairs: dict[str, tuple[torch.Tensor, torch.Tensor]]


def read(source: Path) -> Adapter:
    """Of a checkpoint's ``actor`` or a PEFT directory. Ends the process where there is more in it than plain adapters."""
    if (source / CONFIG).is_file():
        said = json.loads((source / CONFIG).read_text())
        if more := [name for name in _OTHER if said.get(name)] or [f"bias {said['bias']}"] * (said.get("bias", "none") != "none"):
            raise SystemExit(f"{source} is not a plain LoRA adapter: {more[0]}")
        tensors = load_file(source / WEIGHTS)
    else:
        said, tensors = json.loads((source / META).read_text()), whole_tensors(source)
    halves: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        layer, _, half = name.replace(".default.", ".").removesuffix(".weight").rpartition(".")
        if half not in ("lora_A", "lora_B"):
            raise SystemExit(f"{source} is not a plain LoRA adapter: it holds {name}")
        halves.setdefault(layer.removeprefix(PREFIX), {})[half] = tensor
    if odd := [layer for layer, pair in halves.items() if len(pair) != 2] or (not halves and ["any layer"]):
        raise SystemExit(f"{source} lacks a matrix for {odd[0]}")
    return Adapter(said["r"], said["lora_alpha"], {layer: (pair["lora_A"], pair["lora_B"]) for layer, pair in halves.items()})


def write_peft(adapter: Adapter, base: Path, out: Path) -> None:
    """``out`` as PEFT's own ``save_pretrained`` leaves one."""
    from peft import LoraConfig

    out.mkdir(parents=True)
    targets = sorted({layer.rpartition(".")[2] for layer in adapter.pairs})
    if len(adapter.pairs) != _ends_with(base, targets):
        targets = sorted(adapter.pairs)  # some layers of a name were excluded: each is named whole
    settings = {"r": adapter.rank, "lora_alpha": adapter.alpha, "task_type": "CAUSAL_LM", "target_modules": targets, "inference_mode": True}
    LoraConfig(**settings, base_model_name_or_path=str(base)).save_pretrained(str(out))
    tensors = {}
    for layer, (a, b) in adapter.pairs.items():
        tensors |= {f"{PREFIX}{layer}.lora_A.weight": a.contiguous(), f"{PREFIX}{layer}.lora_B.weight": b.contiguous()}
    save_file(tensors, out / WEIGHTS, {"format": "pt"})


def merge(adapter: Adapter, base: Path, out: Path) -> None:
    """``out`` as ``base`` is, with the adapters in its weights. Ends the process where a layer is not in ``base``."""
    out.mkdir(parents=True)
    left = dict(adapter.pairs)
    for file in sorted(path for path in base.iterdir() if path.is_file()):
        if file.suffix in (".bin", ".pt", ".pth", ".gguf"):
            continue  # weights in another form, without the adapters
        if file.suffix != ".safetensors":
            shutil.copyfile(file, out / file.name)
            continue
        tensors = load_file(file)
        for name, tensor in tensors.items():
            pair = left.pop(name.removesuffix(".weight"), None) if name.endswith(".weight") else None
            if pair is not None:
                added = adapter.alpha / adapter.rank * (pair[1].float() @ pair[0].float())
                tensors[name] = (tensor.float() + added).to(tensor.dtype)
        save_file(tensors, out / file.name, {"format": "pt"})
        shutil.copymode(file, out / file.name)
    if left:
        raise SystemExit(f"{base} has no tensor {next(iter(left))}.weight in a safetensors file: the adapters cannot be added to it")


def _ends_with(base: Path, ends: list[str]) -> int:
    """How many weights of ``base`` are of layers with one of these last names."""
    from safetensors import safe_open

    found = 0
    for file in base.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            found += sum(name.endswith(".weight") and name.split(".")[-2] in ends for name in tensors.keys())  # noqa: SIM118
    return found


def main(form: str, source: str, base: str, out: str) -> None:
    {"peft": write_peft, "merge": merge}[form](read(Path(source)), Path(base), Path(out))


if __name__ == "__main__":
    main(*sys.argv[1:])
