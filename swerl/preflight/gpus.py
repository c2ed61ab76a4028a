"""Family `gpu`: the cards, who uses them, and whether their driver runs what the lock installs. Asked through ``nvidia-smi``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import psutil

from swerl.environment.platforms import CUDA, MINIMUM_DRIVER
from swerl.facts.memory import ASSUMED_GPU_BYTES, GIB, forecast, size
from swerl.facts.plan import plan_of
from swerl.preflight.check import Check, Fact, Finding, NotApplicable
from swerl.preflight.context import Context
from swerl.record.cards import nvidia_smi, visible
from swerl.record.process import TOKEN_VARIABLE, environment_of

_SMI_TIMEOUT_S = 6.0


@dataclass(frozen=True, slots=True)
class Gpu:
    index: str
    uuid: str
    name: str
    memory_bytes: int
    used_bytes: int
    driver: str


def gpus(ctx: Context) -> list[Gpu]:
    """Cards of this host that CUDA_VISIBLE_DEVICES leaves to the run; empty without ``nvidia-smi``. Raises RuntimeError when it answers
    with an error."""

    def ask() -> list[Gpu]:
        fields = "index,uuid,name,memory.total,memory.used,driver_version"
        if visible(ctx.env) == "":
            return []
        question = nvidia_smi([f"--query-gpu={fields}", "--format=csv,noheader,nounits"], ctx.env)
        answer = ctx.ask(question, timeout_s=_SMI_TIMEOUT_S)
        if answer.code is None:
            return []
        if not answer.ok:
            raise RuntimeError((answer.err or answer.out).strip() or f"nvidia-smi ended with {answer.code}")
        cards = [[field.strip() for field in line.split(",")] for line in answer.out.splitlines() if line.strip()]
        return [Gpu(i, uuid, name, int(total) << 20, int(used) << 20, driver) for i, uuid, name, total, used, driver in cards]

    return ctx.once("gpus", ask)


def need_cuda(ctx: Context) -> None:
    if ctx.on_cpu:
        raise NotApplicable("infrastructure.device is cpu")


def answering(ctx: Context) -> list[Gpu]:
    """The same for checks that come second: not applicable where nvidia-smi answers with an error."""
    try:
        return gpus(ctx)
    except RuntimeError as error:
        raise NotApplicable("nvidia-smi does not answer (SWERL-P601)") from error


class GpusAreThere(Check):
    id = "SWERL-P601"
    family = "gpu"
    title = "GPUs"
    asks = "this host has as many GPUs as infrastructure.ngpus_per_node says"
    hung = "fatal"
    remedy = "run on the GPU host, lower infrastructure.ngpus_per_node, or use a profile with infrastructure.device: cpu (PROFILE=demo-cpu)"
    live = True
    budget_s = 8.0

    def run(self, ctx: Context) -> Iterator[Finding]:
        need_cuda(ctx)
        wanted = ctx.cfg.infrastructure.ngpus_per_node
        where = ctx.source("infrastructure.ngpus_per_node")
        try:
            found = gpus(ctx)
        except RuntimeError as error:
            yield self.found(f"nvidia-smi does not answer: {error}", where, remedy="mend the driver; `nvidia-smi` must list the cards")
            return
        if ctx.program("nvidia-smi") is None:
            yield self.found(f"no NVIDIA GPU on this host (nvidia-smi is not installed), {wanted} wanted", where)
        elif len(found) < wanted:
            of = "on this host" if visible(ctx.env) is None else f"left by CUDA_VISIBLE_DEVICES={visible(ctx.env)}"
            yield self.found(f"{len(found)} GPU(s) {of}, {wanted} wanted", where)
        else:
            yield Fact(f"{len(found)} x {found[0].name}, {size(found[0].memory_bytes)}")


class GpusAreFree(Check):
    id = "SWERL-P602"
    family = "gpu"
    title = "GPU processes"
    asks = "nobody else computes on the GPUs"
    remedy = "ask the owner of the process named, or wait; swerl never ends processes it did not start"
    live = True
    budget_s = 8.0
    faults = (47,)

    def run(self, ctx: Context) -> Iterator[Finding]:
        need_cuda(ctx)
        cards = {g.uuid: g for g in answering(ctx)}
        query = nvidia_smi(["--query-compute-apps=gpu_uuid,pid,process_name,used_memory", "--format=csv,noheader,nounits"], ctx.env)
        answer = ctx.ask(query, timeout_s=_SMI_TIMEOUT_S)
        if not answer.ok:
            raise NotApplicable("nvidia-smi does not answer (SWERL-P601)")
        seen: dict[str, int] = {}
        for line in answer.out.splitlines():
            uuid, pid, name, used = (field.strip() for field in line.split(",", 3))
            where = f"GPU {cards[uuid].index}" if uuid in cards else uuid
            if used.isdigit():
                seen[uuid] = seen.get(uuid, 0) + (int(used) << 20)
            if ctx.is_leftover(int(pid)):
                yield Fact(f"pid {pid} is a leftover of this run, which its start ends")
            else:
                yield self.found(f"pid {pid} ({name}, {owner(int(pid))}) holds {used} MiB", where)
        for uuid, card in cards.items():
            yield from self._unseen(ctx, card, card.used_bytes - seen.get(uuid, 0), answer.out)

    def _unseen(self, ctx: Context, card: Gpu, unseen: int, listed: str) -> Iterator[Finding]:
        """Memory that no process of this container holds. The engine ends at its start where less is free than it was told to take."""
        if unseen <= GIB or (card.uuid in listed and "[N/A]" in listed):
            return
        share = ctx.cfg.vllm.gpu_memory_utilization
        starved = card.memory_bytes - unseen < share * card.memory_bytes
        text = f"{size(unseen)} in use by no visible process (another container, or a leak)"
        yield self.found(
            text + (f"; the engine wants {share:.0%} of the card" if starved else ""),
            f"GPU {card.index}",
            severity="fatal" if starved else "warning",
            remedy="find its owner on the host (nvidia-smi there), or lower vllm.gpu_memory_utilization",
        )


def owner(pid: int) -> str:
    """Whose process it is: a run of swerl's by its name, else the user's."""
    if token := (environment_of(pid) or {}).get(TOKEN_VARIABLE):
        return f"of swerl's run {token.rpartition('-')[0]}"
    try:
        return f"user {psutil.Process(pid).username()}"
    except (psutil.Error, KeyError):
        return "outside this container"


class DriverRunsCuda(Check):
    id = "SWERL-P603"
    family = "gpu"
    title = "GPU driver"
    asks = f"the driver runs programs built for CUDA {CUDA}, which the lock installs"
    remedy = f"install driver {MINIMUM_DRIVER} or newer"
    live = True
    budget_s = 8.0

    def run(self, ctx: Context) -> Iterator[Finding]:
        need_cuda(ctx)
        if not (found := answering(ctx)):
            raise NotApplicable("there is no GPU to ask (SWERL-P601)")
        driver = found[0].driver
        if driver.split(".")[0].isdigit() and int(driver.split(".")[0]) < MINIMUM_DRIVER:
            yield self.found(f"driver {driver} is older than {MINIMUM_DRIVER}")
        yield Fact(driver)


def gpu_memory(ctx: Context) -> int | None:
    """Bytes of the smallest card here; the assumed size where there is none to ask; None on the CPU."""
    if ctx.on_cpu:
        return None
    try:
        return min((g.memory_bytes for g in gpus(ctx)), default=ASSUMED_GPU_BYTES)
    except (RuntimeError, TimeoutError):
        return ASSUMED_GPU_BYTES


class EngineHolds(Check):
    id = "SWERL-P604"
    family = "gpu"
    title = "KV cache"
    asks = "the engine's cache holds the longest trial, and as many trials at once as are run"
    remedy = "raise vllm.gen_tp or vllm.gpu_memory_utilization (vllm.kv_cache_gb on the CPU), or shorten the trials"
    live = True
    budget_s = 8.0
    faults = (49,)

    def run(self, ctx: Context) -> Iterator[Finding]:
        result = forecast(ctx.shape(), plan_of(ctx.cfg, steps=ctx.steps(), gpu_memory_bytes=gpu_memory(ctx)))
        engine, plan = result.engine, result.plan
        longest = min(plan.prompt_tokens + plan.response_tokens, plan.max_model_length)
        where = ctx.source("vllm.kv_cache_gb" if ctx.on_cpu else "vllm.gpu_memory_utilization")
        assert engine.kv_tokens is not None
        if engine.kv_tokens < longest:
            yield self.found(f"the cache of a replica holds {engine.kv_tokens:,} tokens, one trial needs up to {longest:,}", where)
            return
        half = engine.replicas * engine.kv_tokens // max(1, longest // 2)
        if half < plan.live_trials:
            yield self.found(
                f"{plan.live_trials} trials run at once, the caches hold about {half} of half the longest length:"
                " prefixes will be thrown out",
                ctx.source("harbor_runtime.num_workers"),
                severity="warning",
                remedy="lower harbor_runtime.num_workers, or give the engine more memory",
            )
        yield Fact(f"{engine.kv_tokens:,} tokens a replica, {engine.full_sequences:.1f} trials of {longest:,}")


class TrainerFits(Check):
    id = "SWERL-P605"
    family = "gpu"
    title = "trainer memory"
    asks = "weights, gradients, optimizer states and activations of a step fit the GPU, by estimate"
    remedy = "raise training.sp_size, lower the lengths, turn on gradient_checkpointing, or use more GPUs"
    severity = "warning"
    live = True
    budget_s = 8.0

    def run(self, ctx: Context) -> Iterator[Finding]:
        need_cuda(ctx)
        memory = gpu_memory(ctx)
        trainer = forecast(ctx.shape(), plan_of(ctx.cfg, steps=ctx.steps(), gpu_memory_bytes=memory)).trainer
        assert memory is not None
        least = trainer.state_bytes + trainer.gathered_bytes
        if least > memory:
            yield self.found(
                f"weights, gradients and optimizer states alone need {size(least)} of {size(memory)}",
                "infrastructure.ngpus_per_node",
                severity="fatal",
                remedy="train on more GPUs",
            )
        elif trainer.peak_bytes > memory:
            activations = trainer.activation_bytes + trainer.layer_bytes
            parts = (
                f"activations {size(activations)}, logits {size(trainer.logits_bytes)}, the optimizer's step {size(trainer.update_bytes)}"
            )
            yield self.found(f"about {size(trainer.peak_bytes)} of {size(memory)} ({parts})", ctx.source("training.max_token_len_per_gpu"))
        yield Fact(f"about {size(trainer.peak_bytes)} of {size(memory)}")


CHECKS = (GpusAreThere(), GpusAreFree(), DriverRunsCuda(), EngineHolds(), TrainerFits())
