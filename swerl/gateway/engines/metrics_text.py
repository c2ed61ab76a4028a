"""What vLLM's metrics say about its KV cache."""

from __future__ import annotations

import re

_LINE = re.compile(r"^vllm:cache_config_info\{(.*)\} ", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


def tokens_in(metrics: str) -> int | None:
    """The sum over the engines of one vLLM server; None when its metrics do not say."""
    found = [dict(_LABEL.findall(labels)) for labels in _LINE.findall(metrics)]
    sizes = [(f.get("num_gpu_blocks", ""), f.get("block_size", "")) for f in found]
    if not sizes or not all(blocks.isdigit() and block.isdigit() for blocks, block in sizes):
        return None
    return sum(int(blocks) * int(block) for blocks, block in sizes)
