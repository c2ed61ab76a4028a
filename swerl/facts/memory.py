"""Bytes: of the engine, the trainer, the host and the disk, from the policy's shape and the plan.

Exact: parameters (families named in ``shape``), KV-cache bytes per token, trials and optimizer steps, checkpoint bytes (fp32 weights and
two fp32 Adam moments, as verl's FSDP engine keeps them; an exported Hugging Face copy is fp32 too; of a LoRA run the adapters' alone).
Estimated, and marked ``~`` in the text: what vLLM leaves for the cache on a GPU (``VLLM_FIXED``, calibrated on one H100, and the sampler's
buffers), its graphs (``GRAPH_LAYER_BYTES``), and the trainer's peak, fitted on one H200 (``docs/results/gpu.json``). On the CPU, a process
needs ``CPU_PROCESS`` before it holds anything (measured in the demonstration). Every byte count is per GPU unless the name says
otherwise. Nothing here looks at the machine: the GPU's memory is a parameter.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from swerl.facts.adapters import adapter_parameters
from swerl.facts.shape import ModelShape, dtype_bytes

GIB = 2**30
ASSUMED_GPU_BYTES = 80 * GIB  # where there is no card to ask
MASTER_BYTES = 4  # verl loads a trainable FSDP model in fp32, whatever it computes in
ADAM_BYTES = 8  # two fp32 moments
HEAD_TOKENS = 1024  # `trainer.logprobs.CHUNK_TOKENS`: logits of as many tokens are in memory at once
HEAD_COPIES = 5  # fp32 arrays of such a chunk at the backward's peak, fitted
# Contexts, communicators, profiling activations. One H100: 79.1 x 0.6 GiB - 45.96 of cache - 1.11 of weights, less the sampler's buffers.
VLLM_FIXED = 0.25 * GIB
GRAPH_LAYER_BYTES = 20 * 2**20  # captured graphs live beside what gpu_memory_utilization bounds
CPU_PROCESS = int(1.1 * GIB)  # torch, verl or vLLM, Ray: what a worker of theirs occupies with next to nothing in it
# The trainer's driver, the gateway, verl's and Ray's actors: torch is in most of them. The kill drill's undisturbed run had 8.4 GiB in all
# its processes (one rank, one engine, one worker of trials), and the demo's 9.0.
CONTROL_PROCESSES = 5 * GIB
GPU_PROCESS_HOST = 6 * GIB  # host memory of a rank and an engine with their libraries and CUDA's tables, a GPU
DATA_TOKEN_BYTES = 64  # ids, masks, positions, log-probabilities and advantages of a token, with one copy under way


@dataclass(frozen=True, slots=True)
class Plan:
    """What the profile says, as far as the arithmetic needs it. ``steps`` is the number of training steps in all, or None if it depends on
    data that could not be read; ``kv_cache_bytes`` is set where the engine is told its cache (CPU), else it takes the rest (GPU)."""

    gpus: int
    gpu_memory_bytes: int | None
    gen_tp: int
    gpu_memory_utilization: float
    rollout_dtype: str
    max_num_seqs: int
    max_model_length: int
    max_batched_tokens: int
    kv_cache_bytes: int | None
    prompts_per_step: int
    samples_per_prompt: int
    mini_batch_prompts: int
    prompt_tokens: int
    response_tokens: int
    tokens_per_gpu: int
    sequence_parallel: int
    param_dtype: str
    gradient_checkpointing: bool
    flash_attention: bool
    entropy: bool
    steps: int | None
    save_every: int
    keep_checkpoints: int | None
    save_hf: bool
    live_trials: int
    cpu: bool = False
    nodes: int = 1
    asynchronous: bool = False
    enforce_eager: bool = False
    actor_offload: bool = False
    reference_policy: bool = False
    remove_padding: bool = True
    dynamic_batches: bool = True
    max_turns: int = 50
    trial_limit_s: float | None = None
    tail_kill_target: float = 1.0
    tail_grace_s: float = 0.0
    test_every: int = -1
    val_before: bool = False
    val_tasks: int | None = None
    val_samples: int = 1
    sandbox_bytes: int = 0
    object_store_bytes: int = 2 << 30
    lora_rank: int = 0
    lora_targets: tuple[str, ...] = ("all-linear",)
    lora_exclude: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EngineForecast:
    """One vLLM replica over ``gen_tp`` GPUs. ``kv_tokens`` is the replica's whole cache; ``full_sequences`` how many of the longest fit."""

    replicas: int
    weight_bytes: int
    kv_bytes_per_token: int
    kv_bytes: int | None
    kv_tokens: int | None
    full_sequences: float | None
    graph_bytes: int
    exact: bool


@dataclass(frozen=True, slots=True)
class TrainerForecast:
    """Peak of one optimizer step on one GPU. ``state_bytes`` = weights, gradients and moments of this rank's shard; ``activation_bytes``
    are kept through the forward pass; ``layer_bytes`` are one layer's, computed again, and ``logits_bytes`` the head's, never both at
    once; ``update_bytes`` are what the optimizer's step holds beside the states, when no activation is left."""

    state_bytes: int
    gathered_bytes: int
    activation_bytes: int
    layer_bytes: int
    logits_bytes: int
    update_bytes: int
    offloaded_host_bytes: int

    @property
    def peak_bytes(self) -> int:
        passes = self.gathered_bytes + self.activation_bytes + max(self.layer_bytes, self.logits_bytes)
        return self.state_bytes + max(passes, self.update_bytes)


@dataclass(frozen=True, slots=True)
class HostForecast:
    """Memory of one node at the most: optimizer states that were moved there, weights of sleeping engines (with adapters: they are not sent
    again), Ray's store, a step's data, processes, sandboxes."""

    offload_bytes: int
    store_bytes: int
    data_bytes: int
    process_bytes: int
    sandbox_bytes: int
    engine_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        return self.offload_bytes + self.engine_bytes + self.store_bytes + self.data_bytes + self.process_bytes + self.sandbox_bytes


@dataclass(frozen=True, slots=True)
class DiskForecast:
    """``peak_bytes`` is the largest amount on disk at any moment: a new checkpoint is committed before the oldest one goes."""

    save_bytes: int
    saves: int | None
    kept: int | None
    peak_bytes: int | None


@dataclass(frozen=True, slots=True)
class Forecast:
    shape: ModelShape
    plan: Plan
    engine: EngineForecast
    trainer: TrainerForecast
    disk: DiskForecast
    host: HostForecast

    @property
    def trainer_process_bytes(self) -> int:
        """What the trainer's worker occupies at its peak, as verl reports it: of the GPU, or (CPU) of the process."""
        return self.trainer.peak_bytes + (CPU_PROCESS if self.plan.cpu else 0)

    @property
    def engine_process_bytes(self) -> int | None:
        """What an engine occupies: of the GPU, or (CPU) its processes."""
        if self.plan.cpu:
            return (self.engine.kv_bytes or 0) + self.engine.weight_bytes + CPU_PROCESS
        memory = self.plan.gpu_memory_bytes
        return None if memory is None else int(memory * self.plan.gpu_memory_utilization) + self.engine.graph_bytes

    @property
    def trials_per_step(self) -> int:
        return self.plan.prompts_per_step * self.plan.samples_per_prompt

    @property
    def updates_per_step(self) -> int:
        return -(-self.plan.prompts_per_step // self.plan.mini_batch_prompts)

    def as_dict(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "trials_per_step": self.trials_per_step,
            "updates_per_step": self.updates_per_step,
            "trainer_peak_bytes": self.trainer.peak_bytes,
        }


def forecast(shape: ModelShape, plan: Plan) -> Forecast:
    return Forecast(shape, plan, _engine(shape, plan), _trainer(shape, plan), disk(shape, plan), _host(shape, plan))


def _engine(shape: ModelShape, plan: Plan) -> EngineForecast:
    per_token = shape.kv_bytes_per_token(plan.rollout_dtype, plan.gen_tp)
    weights = shape.parameters * dtype_bytes(plan.rollout_dtype) // plan.gen_tp
    room = plan.kv_cache_bytes
    if room is None and plan.gpu_memory_bytes is not None:
        sampler = plan.max_num_seqs * shape.vocab * 4
        room = max(0, int(plan.gpu_memory_bytes * plan.gpu_memory_utilization - weights - VLLM_FIXED - sampler))
    tokens = None if room is None else room // per_token
    return EngineForecast(
        replicas=max(1, plan.gpus // plan.gen_tp),
        weight_bytes=weights,
        kv_bytes_per_token=per_token,
        kv_bytes=room,
        kv_tokens=tokens,
        full_sequences=None if tokens is None else tokens / (plan.prompt_tokens + plan.response_tokens),
        graph_bytes=0 if plan.enforce_eager or plan.cpu else shape.layers * GRAPH_LAYER_BYTES,
        exact=plan.kv_cache_bytes is not None and not shape.is_hybrid,
    )


def _trainer(shape: ModelShape, plan: Plan) -> TrainerForecast:
    """With checkpointing one hidden state per layer is kept and one layer's inside computed again, else every layer's inside is kept.
    Logits on a GPU: by chunks of tokens, with the head's gradient in fp32 and in the compute type; on the CPU whole: as computed, scaled by
    the temperature, their log-softmax, and for entropy two more. Torch's AdamW holds a square root of every second moment at its step."""
    compute = dtype_bytes(plan.param_dtype)
    held = states(shape, plan)
    tokens = plan.tokens_per_gpu
    inside = tokens * inside_units(shape) * compute
    head = shape.vocab * shape.hidden
    whole = tokens * shape.vocab * compute * (5 if plan.entropy else 3)
    gradient = 0 if plan.lora_rank else head * (MASTER_BYTES + compute)
    chunked = HEAD_COPIES * min(tokens, HEAD_TOKENS) * shape.vocab * MASTER_BYTES + gradient
    return TrainerForecast(
        state_bytes=held.weight_bytes + held.trained * (MASTER_BYTES + ADAM_BYTES),
        gathered_bytes=compute * (2 * shape.largest_layer + head * (1 if shape.tied_embeddings else 2)),
        activation_bytes=shape.layers * (tokens * shape.hidden * compute if plan.gradient_checkpointing else inside),
        layer_bytes=inside if plan.gradient_checkpointing else 0,
        logits_bytes=whole if plan.cpu else chunked,
        update_bytes=0 if plan.cpu else held.trained * MASTER_BYTES,
        offloaded_host_bytes=held.weight_bytes + held.trained * ADAM_BYTES,
    )


def inside_units(shape: ModelShape) -> int:
    """Numbers that one layer keeps of a token for its backward: two norms with their fp32 copies, queries, keys and values before and after
    norm and rotation, the MLP's four products."""
    return 12 * shape.hidden + 4 * (shape.heads + shape.kv_heads) * shape.head_dim + 4 * _mlp_width(shape)


@dataclass(frozen=True, slots=True)
class States:
    """Of one rank. ``weight_bytes``: of all its weights; ``trained``: the elements that have a gradient and moments."""

    weight_bytes: int
    trained: int


def states(shape: ModelShape, plan: Plan) -> States:
    """All weights are trained in fp32; with adapters these are, and the frozen weights are held in the type they are computed in."""
    shard, trained = shape.parameters // plan.gpus, trained_parameters(shape, plan) // plan.gpus
    frozen = shard * dtype_bytes(plan.param_dtype) if plan.lora_rank else 0
    return States(frozen + trained * MASTER_BYTES, trained)


def trained_parameters(shape: ModelShape, plan: Plan) -> int:
    return adapter_parameters(shape, plan.lora_rank, plan.lora_targets, plan.lora_exclude) if plan.lora_rank else shape.parameters


def _mlp_width(shape: ModelShape) -> int:
    """The MLP's width that one token sees; for a mixture the active experts'."""
    outside = shape.vocab * shape.hidden * (1 if shape.tied_embeddings else 2) + shape.hidden
    attention = shape.hidden * shape.head_dim * (2 * shape.heads + 2 * shape.kv_heads)
    per_layer = (shape.active_parameters - outside) // shape.layers - attention
    return max(0, per_layer) // (3 * shape.hidden)


def _host(shape: ModelShape, plan: Plan) -> HostForecast:
    """Of the busiest node: the one with the sandboxes and the driver, which holds a step's data."""
    here = max(1, plan.gpus // plan.nodes)
    held = states(shape, plan)
    trials = plan.prompts_per_step * plan.samples_per_prompt
    return HostForecast(
        offload_bytes=(held.weight_bytes + held.trained * ADAM_BYTES) * here if plan.actor_offload else 0,
        engine_bytes=shape.parameters * dtype_bytes(plan.rollout_dtype) // plan.gen_tp * here if plan.lora_rank and not plan.cpu else 0,
        store_bytes=plan.object_store_bytes,
        data_bytes=trials * (plan.prompt_tokens + plan.response_tokens) * DATA_TOKEN_BYTES,
        process_bytes=CONTROL_PROCESSES + here * (2 * CPU_PROCESS + (plan.kv_cache_bytes or 0) if plan.cpu else GPU_PROCESS_HOST),
        sandbox_bytes=plan.live_trials * plan.sandbox_bytes,
    )


def disk(shape: ModelShape, plan: Plan) -> DiskForecast:
    save = trained_parameters(shape, plan) * (MASTER_BYTES + ADAM_BYTES + (MASTER_BYTES if plan.save_hf else 0))
    saves = None if plan.steps is None else max(1, -(-plan.steps // plan.save_every))
    keep = plan.keep_checkpoints
    kept = saves if keep is None else keep if saves is None else min(saves, keep)
    peak = saves if keep is None else keep + 1 if saves is None else min(saves, keep + 1)
    return DiskForecast(save, saves, kept, None if peak is None else peak * save)


def count(number: int) -> str:
    for limit, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= limit:
            return f"{number / limit:.2f}{unit}"
    return str(number)


def size(number: float) -> str:
    for limit, unit in ((2**40, "TiB"), (GIB, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if number >= limit:
            return f"{number / limit:.1f} {unit}"
    return f"{int(number)} B"
