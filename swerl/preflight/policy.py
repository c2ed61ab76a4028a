"""Family `model`: the checkpoint that training starts from, read from its own files."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from swerl.facts.memory import count
from swerl.facts.shape import ShapeError, read_shape, text_config
from swerl.preflight.check import Check, Fact, Finding, NotApplicable
from swerl.preflight.context import Context

SAFETENSORS_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "BF16": 2, "F16": 2, "I16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1}


class ModelIsThere(Check):
    id = "SWERL-P101"
    family = "model"
    title = "policy"
    asks = "model.model_path is a checkpoint directory with a config.json that describes a language model"
    remedy = "point model.model_path at the directory of a Hugging Face checkpoint (config.json, safetensors, tokenizer)"
    hung = "fatal"

    def run(self, ctx: Context) -> Iterator[Finding]:
        path = ctx.cfg.model.model_path
        ctx.filled("model.model_path", path)
        where = ctx.source("model.model_path")
        if not path.is_dir():
            yield self.found(f"model.model_path {path} is not a directory" + (" (it does not exist)" if not path.exists() else ""), where)
            return
        try:
            shape = read_shape(path / "config.json")
        except OSError as error:
            yield self.found(f"{path / 'config.json'} cannot be read: {error.strerror}", where)
        except ShapeError as error:
            yield self.found(f"{path / 'config.json'}: {error}", where)
        else:
            kind = f"MoE, {shape.experts} experts" if shape.is_moe else "dense"
            yield Fact(f"{shape.architecture}, {count(shape.parameters)} parameters, {kind}, {shape.kv_heads} KV heads, {shape.dtype}")


class KvHeadsDivide(Check):
    id = "SWERL-P102"
    family = "model"
    title = "tensor parallelism of the engine"
    asks = "vllm.gen_tp divides the attention heads and the key/value heads, also where they stand in text_config"
    remedy = "set vllm.gen_tp to a divisor of num_key_value_heads; an engine started otherwise dies with an illegal memory access"
    faults = (14,)

    def run(self, ctx: Context) -> Iterator[Finding]:
        shape, tp = ctx.shape(), ctx.cfg.vllm.gen_tp
        where = ctx.source("vllm.gen_tp")
        for name, heads in (("num_key_value_heads", shape.kv_heads), ("num_attention_heads", shape.heads)):
            if heads % tp:
                good = ", ".join(str(n) for n in range(1, shape.kv_heads + 1) if shape.kv_heads % n == 0)
                yield self.found(f"vllm.gen_tp {tp} does not divide {name} {heads} (divisors of the KV heads: {good})", where)
        yield Fact(f"gen_tp {tp} for {shape.heads} heads, {shape.kv_heads} KV heads")


class GpusDivide(Check):
    id = "SWERL-P103"
    family = "model"
    title = "replicas of the engine"
    asks = "vllm.gen_tp divides the number of GPUs, so that every GPU belongs to a replica"
    remedy = "set vllm.gen_tp to a divisor of nnodes x ngpus_per_node that fits on one node"
    faults = (2,)

    def run(self, ctx: Context) -> Iterator[Finding]:
        tp, per_node = ctx.cfg.vllm.gen_tp, ctx.cfg.infrastructure.ngpus_per_node
        if per_node % tp and tp % per_node:
            yield self.found(f"vllm.gen_tp {tp} and {per_node} GPUs a node: some GPUs would serve no replica", ctx.source("vllm.gen_tp"))
        elif ctx.gpus % tp:
            yield self.found(f"vllm.gen_tp {tp} does not divide the {ctx.gpus} GPUs", ctx.source("vllm.gen_tp"))
        else:
            yield Fact(f"{ctx.gpus // tp} replica(s) of {tp}")


class WeightsAreComplete(Check):
    id = "SWERL-P104"
    family = "model"
    title = "weights"
    asks = "every safetensors file of the index is there, as long as its header says, and holds the tensors the index promises"
    remedy = "copy the checkpoint again, or merge it again; a broken copy loads with random values or fails after minutes"
    live = True
    budget_s = 5.0
    faults = (44,)

    def run(self, ctx: Context) -> Iterator[Finding]:
        shape, folder = ctx.shape(), ctx.cfg.model.model_path
        index = folder / "model.safetensors.index.json"
        promised: Mapping[str, str] = orjson.loads(index.read_bytes())["weight_map"] if index.is_file() else {}
        files = sorted(set(promised.values())) or sorted(p.name for p in folder.glob("*.safetensors"))
        if not files:
            yield self.found(f"no safetensors file in {folder}", str(folder))
            return
        tensors: dict[str, int] = {}
        for name in files:
            try:
                found = safetensors_header(folder / name)
            except (OSError, ValueError) as error:
                yield self.found(f"{name}: {error}", str(folder / name))
                continue
            tensors.update(found)
            if missing := sorted(t for t, f in promised.items() if f == name and t not in found):
                yield self.found(f"{name} lacks {len(missing)} tensors that the index promises, such as {missing[0]}", str(folder / name))
        if not tensors:
            return
        layers = {
            int(p[i + 1]) for p in (t.split(".") for t in tensors) for i in range(len(p) - 1) if p[i] == "layers" and p[i + 1].isdigit()
        }
        if absent := sorted(set(range(shape.layers)) - layers):
            yield self.found(f"no weights for layer {absent[0]} of {shape.layers} ({len(absent)} layers are missing)", str(folder))
        stored = sum(tensors.values())
        if shape.exact and not absent and stored not in _stored_counts(shape, tensors):
            yield self.found(
                f"the files hold {stored:,} elements, config.json describes {shape.parameters:,}",
                str(folder),
                remedy="check that the tensors' names are those of this architecture (a merged mixture may have kept fused experts)",
            )
        yield Fact(f"{len(files)} file(s), {len(tensors)} tensors")


def _stored_counts(shape, tensors: Mapping[str, int]) -> set[int]:
    """A tied output matrix may be stored a second time."""
    return {shape.parameters, shape.parameters + shape.vocab * shape.hidden * (1 if shape.tied_embeddings else 0)}


def safetensors_header(path: Path) -> dict[str, int]:
    """Elements of each tensor, from the header; ValueError if the file is not as long as the header says."""
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else -1
        if not 0 < length <= size - 8:
            raise ValueError("not a safetensors file (no header)")
        header: dict[str, Any] = orjson.loads(file.read(length))
    header.pop("__metadata__", None)
    end = max((t["data_offsets"][1] for t in header.values()), default=0)
    if 8 + length + end != size:
        raise ValueError(f"is {size:,} bytes long, its header describes {8 + length + end:,}: the copy is not complete")
    return {name: (t["data_offsets"][1] - t["data_offsets"][0]) // SAFETENSORS_BYTES.get(t["dtype"], 1) for name, t in header.items()}


class TokenizerIsThere(Check):
    id = "SWERL-P105"
    family = "model"
    title = "tokenizer and chat template"
    asks = "the checkpoint has a tokenizer that fits its embedding, a chat template, and a stop token that generation ends at"
    remedy = "copy the tokenizer files of the model the checkpoint was trained from, or set model.chat_template"

    def run(self, ctx: Context) -> Iterator[Finding]:
        shape, folder = ctx.shape(), ctx.cfg.model.model_path
        if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json")):
            yield self.found(f"no tokenizer in {folder}", str(folder))
            return
        settings = _json(folder / "tokenizer_config.json")
        template = ctx.cfg.model.chat_template
        if template is not None:
            if not template.is_file():
                yield self.found(f"model.chat_template {template} does not exist", ctx.source("model.chat_template"))
        elif not (settings.get("chat_template") or (folder / "chat_template.jinja").is_file()):
            yield self.found("the tokenizer has no chat template", str(folder / "tokenizer_config.json"))
        largest = _largest_token(folder / "tokenizer.json")
        if largest is not None and largest >= shape.vocab:
            yield self.found(f"the tokenizer has token {largest}, the embedding only {shape.vocab} rows", str(folder / "tokenizer.json"))
        if not stop_tokens(folder):
            yield self.found(
                "neither generation_config.json nor config.json names an eos_token_id: no answer would end",
                str(folder / "generation_config.json"),
                remedy="write generation_config.json with the id of the token that ends an assistant turn",
            )
        yield Fact(f"vocabulary {shape.vocab}, stop tokens {', '.join(map(str, stop_tokens(folder)))}")


def stop_tokens(folder: Path) -> list[int]:
    """Ids at which generation ends, as vLLM reads them: generation_config.json first."""
    config = _json(folder / "config.json")
    for value in (_json(folder / "generation_config.json").get("eos_token_id"), text_config(config).get("eos_token_id")):
        if value is not None and value != []:
            return value if isinstance(value, list) else [value]
    return []


def _largest_token(path: Path) -> int | None:
    """The highest id of a tokenizer.json; None for other formats. Only the added tokens and the vocabulary's values are looked at."""
    if not path.is_file():
        return None
    data = _json(path)
    vocab = data.get("model", {}).get("vocab")
    ids = [t["id"] for t in data.get("added_tokens", ())]
    if isinstance(vocab, dict):
        ids += vocab.values()
    elif isinstance(vocab, list):
        ids.append(len(vocab) - 1)
    return max(ids, default=None)


def _json(path: Path) -> dict[str, Any]:
    return orjson.loads(path.read_bytes()) if path.is_file() else {}


class WindowFits(Check):
    id = "SWERL-P106"
    family = "model"
    title = "context window of the policy"
    asks = "vllm.max_model_length does not exceed the positions the policy was made for"
    remedy = "lower vllm.max_model_length, or use a checkpoint whose config.json scales its positions (rope_scaling)"

    def run(self, ctx: Context) -> Iterator[Finding]:
        limit, wanted = ctx.shape().max_positions, ctx.cfg.vllm.max_model_length
        if limit is None:
            raise NotApplicable("config.json names no max_position_embeddings")
        scaling = text_config(_json(ctx.cfg.model.model_path / "config.json")).get("rope_scaling") or {}
        limit = int(limit * float(scaling.get("factor") or 1)) if scaling.get("rope_type", scaling.get("type")) == "yarn" else limit
        if wanted > limit:
            yield self.found(
                f"vllm.max_model_length {wanted:,} exceeds the policy's {limit:,} positions", ctx.source("vllm.max_model_length")
            )
        yield Fact(f"{wanted:,} of {limit:,} positions")


class WeightsAreTrainable(Check):
    id = "SWERL-P107"
    family = "model"
    title = "weights can be trained"
    asks = "the checkpoint is not quantised: FSDP trains plain weights only"
    remedy = "use the checkpoint's bfloat16 original"

    def run(self, ctx: Context) -> Iterator[Finding]:
        ctx.shape()
        config = _json(ctx.cfg.model.model_path / "config.json")
        quantised = config.get("quantization_config") or text_config(config).get("quantization_config")
        if quantised:
            method = quantised.get("quant_method", "?") if isinstance(quantised, dict) else quantised
            yield self.found(f"the weights are quantised ({method})", str(ctx.cfg.model.model_path / "config.json"))


class RouterIsReplayed(Check):
    id = "SWERL-P108"
    family = "model"
    title = "router of a mixture"
    asks = "a mixture of experts is trained with what its engine and trainer need to agree, and nobody relies on a replay of the router"
    remedy = (
        "correct for the difference: algorithm.rollout_correction.rollout_is: token, with bypass_mode: false"
        " (router_replay is what the megatron and veomni engines have, and neither is in the lock)"
    )
    severity = "fatal"
    faults = (34, 35)

    def run(self, ctx: Context) -> Iterator[Finding]:
        shape, overrides, correction = ctx.shape(), ctx.cfg.verl_overrides, ctx.cfg.algorithm.rollout_correction
        replay = [key for key, value in overrides.items() if _REPLAY.search(key) and _on(value)]
        if replay:
            why = "the FSDP engine does not replay the router's choices" if shape.is_moe else "a dense policy has no router"
            remedy = f"remove it; {self.remedy}" if shape.is_moe else "remove it"
            yield self.found(f"`verl_overrides.{replay[0]}`: {why}", ctx.source(f"verl_overrides.{replay[0]}"), remedy=remedy)
        elif shape.is_moe and (correction.rollout_is is None or correction.bypass_mode):
            bypassed = ", and bypass_mode leaves out the weights that would correct for it" if correction.rollout_is else ""
            message = (
                f"a mixture without router replay: engine and trainer choose other experts (probability correlation near 0.75){bypassed}"
            )
            yield self.found(message, str(ctx.cfg.model.model_path / "config.json"), severity="warning")
        elif shape.is_moe:
            yield Fact("no router replay; importance weights correct for it")
        else:
            yield Fact("dense")


_REPLAY = re.compile(r"(router|routing)_replay")


def _on(value: object) -> bool:
    return str(value).lower() not in {"false", "none", "null", "disabled", "0", ""}


CHECKS = (
    ModelIsThere(),
    KvHeadsDivide(),
    GpusDivide(),
    WeightsAreComplete(),
    TokenizerIsThere(),
    WindowFits(),
    WeightsAreTrainable(),
    RouterIsReplayed(),
)
