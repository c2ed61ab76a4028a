"""Family `model`, the part about low-rank adapters: what `model.lora` asks for exists, can be trained and can be served."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import orjson

from swerl.facts.adapters import ALL, adapter_parameters
from swerl.facts.memory import count
from swerl.preflight.check import Check, Fact, Finding, NotApplicable
from swerl.preflight.context import Context
from swerl.preflight.policy import safetensors_header

_NO_LINEAR = ("norm", "conv", "embed")
EXPERTS = ".experts."
ROUTERS = (".mlp.gate", ".block_sparse_moe.gate", ".mlp.router")


class AdaptersFit(Check):
    id = "SWERL-P111"
    family = "model"
    title = "low-rank adapters"
    asks = "every entry of model.lora.targets and exclude names a layer that can have adapters, and what comes with them can be honoured"
    remedy = "name linear layers of the decoder (q_proj, o_proj, down_proj), or all-linear"
    live = True
    budget_s = 5.0

    def run(self, ctx: Context) -> Iterator[Finding]:
        lora, shape = ctx.cfg.model.lora, ctx.shape()
        if not lora.rank:
            raise NotApplicable("model.lora.rank is 0: all weights are trained")
        layers = decoder_layers(ctx)
        able = [name for name in layers if not _is_of_a_mixture(name)]
        for key, names in (("targets", lora.targets), ("exclude", lora.exclude)):
            for name in names:
                if said := _unable(name, layers, able) if not (key == "targets" and name == ALL) else "":
                    yield self.found(f"model.lora.{key}: {said}", ctx.source(f"model.lora.{key}"))
        if not chosen(able, lora.targets, lora.exclude):
            yield self.found("model.lora.exclude leaves no layer of model.lora.targets", ctx.source("model.lora.exclude"))
        if shape.is_moe and ALL in lora.targets:
            yield self.found(
                f"model.lora.targets: {ALL} reaches a mixture's experts, whose adapters are neither sent to the engine nor exported",
                ctx.source("model.lora.targets"),
                remedy="name the attention's layers: [q_proj, k_proj, v_proj, o_proj]",
            )
        if ALL in lora.targets and len(lora.targets) > 1:
            yield self.found(f"model.lora.targets: {ALL} stands alone", ctx.source("model.lora.targets"))
        if ctx.cfg.training.save_hf:
            yield self.found(
                "training.save_hf writes all weights, and a checkpoint of adapters has none",
                ctx.source("training.save_hf"),
                remedy="set training.save_hf: false; `swerl export` writes merged weights, or with --adapter what PEFT reads",
            )
        about = "" if shape.exact else "about "
        trained = adapter_parameters(shape, lora.rank, lora.targets, lora.exclude)
        yield Fact(f"rank {lora.rank}, {about}{count(trained)} of {count(shape.parameters)} parameters")


def decoder_layers(ctx: Context) -> list[str]:
    """Names of the weights in the policy's layers, without ``.weight``, from its files."""
    folder = ctx.cfg.model.model_path
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = list(orjson.loads(index.read_bytes())["weight_map"])
    else:
        names = [name for file in sorted(folder.glob("*.safetensors")) for name in safetensors_header(file)]
    found = sorted({name.removesuffix(".weight") for name in names if ".layers." in name and name.endswith(".weight")})
    if not found:
        raise NotApplicable(f"the files in {folder} name no layers")
    return [name for name in found if not any(word in name.rpartition(".")[2] for word in _NO_LINEAR)]


def chosen(able: Sequence[str], targets: Sequence[str], exclude: Sequence[str]) -> list[str]:
    """Layers that get adapters, as PEFT matches names: whole, or their end after a dot."""
    return [layer for layer in able if (ALL in targets or _any(layer, targets)) and not _any(layer, exclude)]


def _any(layer: str, names: Sequence[str]) -> bool:
    return any(layer == name or layer.endswith(f".{name}") for name in names)


def _unable(name: str, layers: Sequence[str], able: Sequence[str]) -> str:
    if _any_of(able, name):
        return ""
    if _any_of(layers, name):
        return f"{name} is of a mixture's experts or its router: adapters there are neither sent to the engine nor exported"
    return f"no linear layer of the policy's decoder is named {name}"


def _any_of(layers: Sequence[str], name: str) -> bool:
    return any(_any(layer, (name,)) for layer in layers)


def _is_of_a_mixture(layer: str) -> bool:
    return EXPERTS in layer or layer.endswith(ROUTERS)


CHECKS = (AdaptersFit(),)
