"""A gateway process for kill tests, everything real but the parsers, so that it starts in a second.

``python killable.py MODEL_DIR RUN_DIR PORT``
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from swerl.gateway.chat import Answer, ChatRequest
from swerl.gateway.sampling import Sampled
from swerl.gateway.service import serve
from swerl.gateway.settings import GatewaySettings
from swerl.gateway.tokenizer import load_tokenizer


class PlainReader:
    """Reads text and no calls."""

    tool_parser = None

    def __init__(self, model_path: Path):
        self.tokenizer = load_tokenizer(model_path)

    async def ready(self) -> None: ...

    def read(self, sampled: Sampled, request: ChatRequest) -> Answer:
        return Answer(self.tokenizer.decode(sampled.token_ids[:-1], skip_special=True), None, (), sampled.finish)

    def certain(self, token_ids: Sequence[int], request: ChatRequest) -> str:
        return ""


if __name__ == "__main__":
    model, run, port = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    settings = GatewaySettings(
        model_path=model, journal_dir=run / "gateway", events_path=run / "gateway.jsonl", services_path=run / "services.json", port=port
    )
    asyncio.run(serve(settings, PlainReader(model)))
