"""Family `gpu`, continued: what the cards and their driver say of their own state, and what joins them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import orjson

from swerl.preflight.check import Check, Fact, Finding, NotApplicable
from swerl.preflight.context import Context
from swerl.preflight.gpus import answering, need_cuda
from swerl.record.cards import nvidia_smi

SMI_S = 6.0
PROBE = Path(__file__).with_name("nccl_probe.py")
_NOTHING = {"", "N/A", "[N/A]", "None", "Not Supported", "[Not Supported]"}  # how nvidia-smi says that there is nothing to say
_STATE = ("index", "compute_mode", "mig.mode.current", "ecc.errors.uncorrected.volatile.total", "fabric.state", "gpu_recovery_action")


class CardsAreSound(Check):
    id = "SWERL-P607"
    family = "gpu"
    title = "state of the cards"
    asks = (
        "every card is whole and shared: no MIG, no exclusive mode, no memory errors, no reset that the driver waits for, and the NVSwitch"
        " fabric is up"
    )
    remedy = "do what is named, or leave the card out with CUDA_VISIBLE_DEVICES and infrastructure.ngpus_per_node"
    live = True
    budget_s = 8.0

    def run(self, ctx: Context) -> Iterator[Finding]:
        need_cuda(ctx)
        answer = ctx.ask(nvidia_smi([f"--query-gpu={','.join(_STATE)}", "--format=csv,noheader"], ctx.env), timeout_s=SMI_S)
        if not answer.ok:
            raise NotApplicable("nvidia-smi does not tell the cards' state (SWERL-P601, SWERL-P603)")
        rows = [[field.strip() for field in line.split(",")] for line in answer.out.splitlines() if line.strip()]
        for row in rows:
            yield from self._card(dict(zip(_STATE, row, strict=False)))
        yield Fact(f"{len(rows)} sound" if rows else "no card")

    def _card(self, said: dict[str, str]) -> Iterator[Finding]:
        card = f"GPU {said['index']}"

        def told(name: str) -> str:
            value = said.get(name, "")
            return "" if value in _NOTHING else value

        if (mode := told("compute_mode")) not in ("", "Default"):
            remedy = f"nvidia-smi -i {said['index']} -c DEFAULT (needs root)"
            yield self.found(
                f"compute mode {mode}: trainer and engine share each card, and the second would be refused", card, remedy=remedy
            )
        if told("mig.mode.current") == "Enabled":
            remedy = f"nvidia-smi -i {said['index']} -mig 0 (needs root, and the card idle)"
            yield self.found("MIG is on: a process sees a slice of the card only", card, remedy=remedy)
        if (errors := told("ecc.errors.uncorrected.volatile.total")) not in ("", "0"):
            remedy = "reset the card (nvidia-smi --gpu-reset) or leave it out; have it replaced if they come back"
            yield self.found(f"{errors} uncorrected memory errors since the driver was loaded", card, severity="warning", remedy=remedy)
        if (fabric := told("fabric.state")) not in ("", "Completed"):
            remedy = "start nvidia-fabricmanager of the driver's version, and wait for it"
            yield self.found(f"the NVSwitch fabric is {fabric!r}: CUDA does not start before it is up (error 802)", card, remedy=remedy)
        if action := told("gpu_recovery_action"):
            yield self.found(f"the driver wants {action!r} before this card computes again", card, remedy="do so, or leave the card out")


class GpusAreLinked(Check):
    id = "SWERL-P606"
    family = "gpu"
    title = "links between GPUs"
    asks = "GPUs that work together reach each other directly (NVLink or PCIe peers), and nothing in the environment turns that off"
    remedy = "unset the variable, or set vllm.gen_tp: 1; nvidia-smi topo -m shows the links"
    severity = "warning"
    live = True
    budget_s = 8.0

    def run(self, ctx: Context) -> Iterator[Finding]:
        if ctx.on_cpu or ctx.gpus < 2:
            raise NotApplicable("one GPU, or none")
        for name in ("NCCL_P2P_DISABLE", "NCCL_SHM_DISABLE"):
            if ctx.env.get(name, "0") not in ("", "0"):
                yield self.found(f"{name}={ctx.env[name]}: GPUs talk through the host", name)
        interface = ctx.env.get("NCCL_SOCKET_IFNAME", "").lstrip("=^").partition(",")[0]
        known = [line.partition(":")[0].strip() for line in (ctx.host.proc / "net" / "dev").read_text().splitlines()[2:]]
        if interface and not ctx.env["NCCL_SOCKET_IFNAME"].startswith("^") and not any(k.startswith(interface) for k in known):
            yield self.found(f"NCCL_SOCKET_IFNAME names {interface}, which this host does not have", "NCCL_SOCKET_IFNAME", severity="fatal")
        answer = ctx.ask(["nvidia-smi", "topo", "-m"], timeout_s=SMI_S)
        links = _links(answer.out) if answer.ok else {}
        yield from self._replicas(ctx, links)
        kinds = sorted(set(links.values()))
        yield Fact(f"links: {', '.join(kinds)}" if kinds else "links unknown")

    def _replicas(self, ctx: Context, links: dict[tuple[int, int], str]) -> Iterator[Finding]:
        """A replica's GPUs are neighbours in the order of the cards; its slowest link is the one it waits for."""
        size, where = ctx.cfg.vllm.gen_tp, ctx.source("vllm.gen_tp")
        cards = [int(g.index) for g in answering(ctx) if g.index.isdigit()] or sorted({card for pair in links for card in pair})
        groups = [cards[i : i + size] for i in range(0, len(cards), size)] if size > 1 else []
        pairs = {pair: links[pair] for group in groups for pair in combinations(group, 2) if pair in links}
        slow = {pair: link for pair, link in pairs.items() if not link.startswith("NV")}
        if slow and len(slow) == len(pairs):
            yield self.found("no NVLink between the GPUs of a replica: tensor parallelism waits for PCIe", where)
        elif slow:
            (one, other), link = next(iter(slow.items()))
            text = f"GPU {one} and GPU {other} of a replica are joined by {link}, others by NVLink ({len(slow)} of {len(pairs)} pairs)"
            yield self.found(text, where, remedy="see nvidia-smi nvlink --status; a link that is down wants a reset or another card")
        elif len(set(pairs.values())) > 1:
            yield self.found(f"pairs of a replica have {' and '.join(sorted(set(pairs.values())))}: some links are down", where)


def _links(topology: str) -> dict[tuple[int, int], str]:
    """Pairs of GPUs and what joins them, from ``nvidia-smi topo -m``."""
    found = {}
    for line in topology.splitlines():
        row = re.sub(r"\x1b\[[0-9;]*m", "", line).split()
        if row and (match := re.fullmatch(r"GPU(\d+)", row[0])) and len(row) > 2:
            for other, link in enumerate(row[1:]):
                if re.fullmatch(r"NV\d+|PIX|PXB|PHB|NODE|SYS", link):
                    found[int(match[1]), other] = link
    return found


class GpusTalk(Check):
    id = "SWERL-P608"
    family = "gpu"
    title = "collectives, tried"
    asks = "all GPUs of this host add up a tensor over NCCL, as trainer and engine do in every step, and get the right sum"
    remedy = "export NCCL_DEBUG=INFO and ask again; usual causes are a small /dev/shm, PCIe access control (ACS), a link that is down"
    live = True
    slow = True
    budget_s = 120.0
    hung = "fatal"

    def run(self, ctx: Context) -> Iterator[Finding]:
        need_cuda(ctx)
        number = min(ctx.cfg.infrastructure.ngpus_per_node, len(answering(ctx)))
        python = ctx.cfg.environment.venv_path / "bin" / "python"
        if number < 2 or not python.exists():
            raise NotApplicable("one GPU, or none" if number < 2 else "the environment is missing (SWERL-P801)")
        answer = ctx.ask([str(python), "-P", str(PROBE), "--ranks", str(number)], timeout_s=110.0)
        lines = answer.out.strip().splitlines()
        if not answer.ok or not lines:
            last = [line for line in answer.err.splitlines() if line.strip()]
            yield self.found(f"{number} GPUs do not add up: {last[-1][:300] if last else f'the probe ended with {answer.code}'}", "NCCL")
            return
        said = orjson.loads(lines[-1])
        yield Fact(f"{number} GPUs, {said['bus_gb_s']:.0f} GB/s each")


CHECKS = (GpusAreLinked(), CardsAreSound(), GpusTalk())
