"""The trainer's speed on one card: update and log-probabilities of the engine as configured, beside a bare loop, and what they compile.

``make bench BENCH=gpu`` writes build/gpu-bench.json. Options: ``--case=NAME`` (one of those printed), ``--shape=NAME``, ``--out=FILE``,
``--rehearse`` (a tiny shape without a GPU: the same code, no figures worth keeping). Weights are random. The engine is `trainer.engine`
with the values that `render.verl` gives; the bare loop is the same transformers model with the same attention: forward, backward, fused
AdamW, all on bfloat16 weights (a ceiling, no way to train), log-probabilities by chunks. Tokens/s is the median of the repetitions, with
the least and most; MFU counts 6 operations per parameter and token and the attention's, against 989 TFLOP/s, and no recomputation.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PEAK_FLOPS = 989e12
QWEN3 = {"vocab_size": 151936, "head_dim": 128, "num_key_value_heads": 8, "max_position_embeddings": 131072}
SHAPES = {
    "0.6b": {**QWEN3, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16, "tied": True},
    "4b": {**QWEN3, "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32, "tied": True},
    "8b": {**QWEN3, "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32, "tied": False},
    "tiny": {
        **QWEN3,
        "vocab_size": 512,
        "head_dim": 16,
        "num_key_value_heads": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "tied": False,
    },
}


@dataclass(frozen=True, slots=True)
class Case:
    """``sequences`` of ``tokens`` tokens in micro-batches of at most ``packed`` tokens."""

    name: str
    sequences: int
    tokens: int
    packed: int
    checkpointing: bool = True


CASES = (
    Case("8x8k in 32k", 8, 8192, 32768),
    Case("4x16k in 16k", 4, 16384, 16384),
    Case("4x16k in 16k, no checkpointing", 4, 16384, 16384, checkpointing=False),
    Case("1x64k", 1, 65536, 65536),
    Case("1x108k", 1, 110592, 110592),  # a whole trajectory of the shipped profile: 40k of prompt and 68k of answer
)
REHEARSAL = (Case("4x32 in 64", 4, 32, 64), Case("2x64, no checkpointing", 2, 64, 64, checkpointing=False))


@dataclass(frozen=True, slots=True)
class Figure:
    """``seconds`` of each repetition after the first, which is ``first_s``. ``compiled``: (count, seconds) in the first, then."""

    what: str
    case: str
    tokens: int
    first_s: float
    seconds: list[float]
    mfu: float | None
    peak_gib: float | None
    compiled: tuple[int, float, int]

    @property
    def rate(self) -> float:
        return self.tokens / statistics.median(self.seconds)


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def policy(shape: str, where: Path) -> Path:
    """A Hugging Face directory with random weights of the shape."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    values = dict(SHAPES[shape])
    torch.manual_seed(1)
    config = Qwen3Config(**{k: v for k, v in values.items() if k != "tied"}, tie_word_embeddings=values["tied"], dtype=torch.bfloat16)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        made = Qwen3ForCausalLM(config).bfloat16()
    made.save_pretrained(where)
    return where


def flops(shape: str, case: Case, passes: int) -> float:
    s = SHAPES[shape]
    attention = s["num_attention_heads"] * s["head_dim"]
    kv = s["num_key_value_heads"] * s["head_dim"]
    layer = s["hidden_size"] * (2 * attention + 2 * kv + 3 * s["intermediate_size"])
    matrices = s["num_hidden_layers"] * layer + s["hidden_size"] * s["vocab_size"]
    tokens = case.sequences * case.tokens
    scores = 2 * s["num_hidden_layers"] * attention * case.tokens * tokens  # causal: half of query times key and weights times value
    return passes * (2 * matrices * tokens + scores)


class Bench:
    def __init__(self, shape: str, attention: str, repetitions: int):
        import torch

        self.torch, self.shape, self.attention, self.repetitions = torch, shape, attention, repetitions
        self.cuda = torch.cuda.is_available()
        self.device = "cuda" if self.cuda else "cpu"
        self._folder = tempfile.TemporaryDirectory(prefix="swerl-bench-")
        self.model = policy(shape, Path(self._folder.name))
        from swerl.trainer import compiles

        self.compiles = compiles.counter()

    def measure(self, what: str, case: Case, passes: int, work: Callable[[], Any]) -> Figure:
        before = self.compiles.total()
        if self.cuda:
            self.torch.cuda.reset_peak_memory_stats()
        first_s = self.timed(work)
        warm = self.compiles.total()
        seconds = [self.timed(work) for _ in range(self.repetitions)]
        after = self.compiles.total()
        mfu = flops(self.shape, case, passes) / statistics.median(seconds) / PEAK_FLOPS if self.cuda else None
        peak = self.torch.cuda.max_memory_allocated() / 2**30 if self.cuda else None
        compiled = (warm.count - before.count, round(warm.seconds - before.seconds, 2), after.count - warm.count)
        figure = Figure(what, case.name, case.sequences * case.tokens, first_s, seconds, mfu, peak, compiled)
        say(
            f"{self.shape} {what}, {case.name}: {figure.rate:,.0f} tokens/s"
            f" ({figure.tokens / max(seconds):,.0f} to {figure.tokens / min(seconds):,.0f}), MFU {100 * (mfu or 0):.1f} %,"
            f" peak {peak or 0:.1f} GiB, first {first_s:.1f} s, compiled {compiled[0]} in {compiled[1]} s, then {compiled[2]}"
        )
        return figure

    def timed(self, work: Callable[[], Any]) -> float:
        began = time.perf_counter()
        work()
        if self.cuda:
            self.torch.cuda.synchronize()
        return time.perf_counter() - began

    def ids(self, case: Case, seed: int) -> Any:
        generator = self.torch.Generator().manual_seed(seed)
        return [self.torch.randint(1, SHAPES[self.shape]["vocab_size"], (case.tokens,), generator=generator) for _ in range(case.sequences)]

    # The engine

    def engine(self, case: Case, fused: bool) -> Any:
        from verl.trainer.config import CheckpointConfig
        from verl.workers.config import FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig
        from verl.workers.engine import EngineRegistry

        model = HFModelConfig(
            path=str(self.model),
            load_tokenizer=False,
            external_lib="swerl.trainer.engine",
            override_config={"attn_implementation": self.attention},
            use_remove_padding=True,
            enable_gradient_checkpointing=case.checkpointing,
            use_fused_kernels=fused,
            fused_kernel_options={"impl_backend": "swerl"},
        )
        model.model_type = "language_model"
        precision = {"param_dtype": "bf16", "reduce_dtype": "fp32", "buffer_dtype": "fp32"}
        config = FSDPEngineConfig(strategy="fsdp2", mixed_precision=precision, use_dynamic_bsz=True, use_torch_compile=self.cuda)
        config.use_remove_padding, config.use_fused_kernels = True, fused
        config.max_token_len_per_gpu = case.packed
        optimizer = FSDPOptimizerConfig(lr=1e-6, total_training_steps=1000, lr_warmup_steps=0, clip_grad=1.0)
        made = EngineRegistry.new(
            model_type="language_model",
            backend="fsdp2",
            model_config=model,
            engine_config=config,
            optimizer_config=optimizer,
            checkpoint_config=CheckpointConfig(),
        )
        made.initialize()
        return made

    def batch(self, case: Case, fused: bool, seed: int) -> Any:
        from tensordict import TensorDict
        from verl.utils import tensordict_utils as tu

        torch, rows = self.torch, self.ids(case, seed)
        nested = lambda values: torch.nested.as_nested_tensor(values, layout=torch.jagged)  # noqa: E731
        data = TensorDict(
            {
                "input_ids": nested(rows),
                "position_ids": nested([torch.arange(case.tokens) for _ in rows]),
                "loss_mask": nested([torch.ones(case.tokens, dtype=torch.int64) for _ in rows]),
            },
            batch_size=len(rows),
        )
        tu.assign_non_tensor(
            data,
            temperature=1.0,
            use_remove_padding=True,
            use_dynamic_bsz=True,
            max_token_len_per_gpu=case.packed,
            use_fused_kernels=fused,
            calculate_entropy=False,
            global_token_num=[case.tokens] * case.sequences,
        )
        return data

    def with_engine(self, case: Case, fused: bool = True) -> list[Figure]:
        def loss(model_output: Any, data: Any, dp_group: Any = None) -> Any:
            return -model_output["log_probs"].values().mean(), {}

        engine = self.engine(case, fused)
        word = "engine" if fused else "engine, whole logits"

        def update() -> None:
            with engine.train_mode():
                engine.train_batch(self.batch(case, fused, 2), loss)

        def score() -> None:
            with engine.eval_mode(), self.torch.no_grad():
                engine.infer_batch(self.batch(case, fused, 3))

        return [self.measure(f"{word}: update", case, 3, update), self.measure(f"{word}: log-probabilities", case, 1, score)]

    # The bare loop

    def bare(self, case: Case) -> list[Figure]:
        from transformers import AutoModelForCausalLM
        from transformers.integrations import flash_attention
        from verl.models.transformers import monkey_patch

        from swerl.trainer import attention, logprobs

        torch = self.torch
        attention.install()
        flash_attention._flash_attention_forward = monkey_patch._ulysses_flash_attention_forward
        model = AutoModelForCausalLM.from_pretrained(self.model, dtype=torch.bfloat16, attn_implementation=self.attention).to(self.device)
        if case.checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        logprobs.install(model)
        model.train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
        rows = self.ids(case, 2)
        each = max(1, case.packed // case.tokens)

        def update() -> None:
            for start in range(0, len(rows), each):
                part = rows[start : start + each]
                ids = torch.cat(part).unsqueeze(0).to(self.device)
                positions = torch.cat([torch.arange(len(row)) for row in part]).unsqueeze(0).to(self.device)
                offsets = torch.tensor([case.tokens * n for n in range(len(part) + 1)], device=self.device)
                attention.announce(attention.Packing.of(offsets, padding=0))
                with torch.autocast(self.device, torch.bfloat16):
                    said = model(input_ids=ids, position_ids=positions, use_cache=False, temperature=1.0)
                (-said.log_probs.mean()).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

        return [self.measure("bare loop: update", case, 3, update)]

    def free(self) -> None:
        gc.collect()
        if self.cuda:
            self.torch.cuda.empty_cache()


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks/gpu", description=__doc__.partition("\n")[0])
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--shape", default="0.6b", choices=list(SHAPES))
    parser.add_argument("--case", action="append", default=[])
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--bare", action=argparse.BooleanOptionalAction, default=True, help="the bare loop beside the engine")
    parser.add_argument("--logits", action="store_true", help="also the engine with whole logits")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu-bench.json")
    given = parser.parse_args(arguments)
    sys.path.insert(0, str(ROOT))
    os.environ.setdefault("VERL_LOGGING_LEVEL", "WARNING")
    if given.rehearse:
        os.environ |= {"VERL_PLATFORM": "cpu", "VERL_USE_EXTERNAL_MODULES": "swerl.trainer.cpu", "VERL_ENGINE_DEVICE": "cuda"}
    import torch

    if not given.rehearse and not torch.cuda.is_available():
        print("no GPU here: make bench BENCH=gpu ARGS=--rehearse runs the same code on the CPU", file=sys.stderr)
        return 1
    import torch.distributed as dist

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29517", "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    dist.init_process_group("gloo" if given.rehearse else "cpu:gloo,cuda:nccl", rank=0, world_size=1)
    shape = "tiny" if given.rehearse else given.shape
    bench = Bench(shape, "sdpa" if given.rehearse else "flash_attention_4", given.repetitions)
    say(f"policy {shape} is there")
    cases = REHEARSAL if given.rehearse else CASES
    figures: list[Figure] = []
    for case in cases:
        if given.case and case.name not in given.case:
            continue
        ways = [
            *([bench.bare] if given.bare else []),
            bench.with_engine,
            *([partial(bench.with_engine, fused=False)] if given.logits else []),
        ]
        for way in ways:
            figures += way(case)
            bench.free()  # what the way held is gone with it
        record = {"machine": machine(), "commit": commit(), "shape": shape, "figures": [{**asdict(f), "rate": f.rate} for f in figures]}
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(record, indent=1) + "\n")
    say(f"written: {given.out}")
    dist.destroy_process_group()
    return 0


def machine() -> str:
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else f"{os.cpu_count()} cores, no GPU"


def commit() -> str:
    """Of the checkout; where only its files were carried, the caller says it in ``SWERL_COMMIT``."""
    done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() or os.environ.get("SWERL_COMMIT", "unknown")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
