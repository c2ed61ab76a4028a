"""``python -m swerl.evaluate.engine --run-dir R``: becomes the vLLM server of an evaluation.

It announces where it will listen and then is vLLM: the same process, so the supervisor watches, restarts and ends the server itself. The
server listens on 127.0.0.1 only, and takes its size from the section ``vllm`` of the configuration, as training does.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from swerl.config import RunConfig, load_resolved
from swerl.evaluate import order
from swerl.record.rundir import RunDir
from swerl.record.services import announce


def arguments(config: RunConfig, port: int) -> list[str]:
    """vLLM's command line, without the program."""
    v = config.vllm
    line = ["--model", str(config.model.model_path), "--host", "127.0.0.1", "--port", str(port)]
    line += ["--served-model-name", config.model.served_model_name, "--tensor-parallel-size", str(v.gen_tp), "--dtype", v.dtype]
    line += ["--max-model-len", str(v.max_model_length), "--max-num-seqs", str(v.max_num_seqs), "--seed", str(v.seed)]
    line += ["--enable-prompt-tokens-details", "--disable-uvicorn-access-log"]
    if config.infrastructure.device == "cuda":
        line += ["--gpu-memory-utilization", str(v.gpu_memory_utilization)]
    if v.enforce_eager:
        line += ["--enforce-eager"]
    line += ["--enable-chunked-prefill" if v.enable_chunked_prefill else "--no-enable-chunked-prefill"]
    for name, value in (("--max-num-batched-tokens", v.max_num_batched_tokens), ("--block-size", v.block_size)):
        line += [] if value is None else [name, str(value)]
    return line


@click.command(help=__doc__)
@click.option("--run-dir", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
def main(run_dir: Path) -> None:
    run = RunDir.at(run_dir)
    asked = order.read(run)
    assert asked is not None, "the command writes the order before it starts a process"
    announce(run.services, "engine", {"url": f"http://127.0.0.1:{asked.engine_port}"})
    line = [sys.executable, "-P", "-m", "vllm.entrypoints.openai.api_server", *arguments(load_resolved(run.resolved), asked.engine_port)]
    os.execv(sys.executable, line)


if __name__ == "__main__":
    main()
