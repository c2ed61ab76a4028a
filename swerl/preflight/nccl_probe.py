"""Runs in the trainer's environment, as a program: one process for each GPU, and a sum over all of them.

Arguments: ``--ranks N``, ``--backend`` (``nccl``; ``gloo`` adds up on the CPU). Output (last line of stdout, JSON): ranks, bus_gb_s (what
each GPU sends, as nccl-tests count it). Ends with 1, and the first error on stderr, where a rank fails or a sum is wrong; a rank that fails
ends the others. Nothing is left behind.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from datetime import timedelta

MEBIBYTES, ROUNDS, TIMEOUT_S = 64, 8, 60


def rank_main(rank: int, ranks: int, backend: str) -> None:
    import torch
    import torch.distributed as dist

    device = torch.device("cpu") if backend == "gloo" else torch.device("cuda", rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    ids = {"device_id": device} if device.type == "cuda" else {}
    dist.init_process_group(backend, rank=rank, world_size=ranks, timeout=timedelta(seconds=TIMEOUT_S), **ids)
    tensor = torch.empty(MEBIBYTES << 18, device=device)
    seconds = []
    for _ in range(ROUNDS):
        tensor.fill_(rank + 1)
        _settle(device)
        began = time.perf_counter()
        dist.all_reduce(tensor)
        _settle(device)
        seconds.append(time.perf_counter() - began)
        if not torch.all(tensor == ranks * (ranks + 1) / 2):
            raise SystemExit(f"rank {rank}: the sum over {ranks} ranks is wrong")
    if rank == 0:
        bus = 2 * (ranks - 1) / ranks * (MEBIBYTES << 20) / min(seconds) / 1e9
        print(json.dumps({"ranks": ranks, "bus_gb_s": bus}))
    dist.destroy_process_group()


def _settle(device) -> None:
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ranks", type=int, required=True)
    parser.add_argument("--backend", default="nccl")
    parser.add_argument("--rank", type=int)
    asked = parser.parse_args()
    if asked.rank is not None:
        rank_main(asked.rank, asked.ranks, asked.backend)
        return 0
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    same = [sys.executable, "-P", __file__, "--ranks", str(asked.ranks), "--backend", asked.backend]
    running = [subprocess.Popen([*same, "--rank", str(rank)], env=env) for rank in range(asked.ranks)]
    try:
        while any(process.poll() is None for process in running) and not any(process.poll() for process in running):
            time.sleep(0.1)
        return int(any(process.poll() for process in running))
    finally:
        for process in running:
            process.kill()
            process.wait()


if __name__ == "__main__":
    sys.exit(main())
