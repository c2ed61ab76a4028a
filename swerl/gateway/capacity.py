"""How many tokens the engines' KV caches hold, asked of the engines themselves: ``gateway.kv_cache_tokens: -1``.

vLLM says it in its metrics (``vllm:cache_config_info``, one line an engine); the bridge adds up what its replicas say. It does not change
while an engine lives, so each engine is asked once; one that cannot be reached is asked again.
"""

from __future__ import annotations

from contextlib import suppress

from swerl.gateway.admission import Admission
from swerl.gateway.engines.base import Engine
from swerl.gateway.errors import EngineAwayError, EngineError
from swerl.gateway.for_ever import for_ever
from swerl.gateway.gate import EngineGate
from swerl.record.events import EventLog

ASK_S = 1.0


async def follow(gate: EngineGate, admission: Admission, events: EventLog) -> None:
    """Bound ``admission`` by what the current engine holds, for ever. An engine that does not say leaves it unbounded."""
    asked: Engine | None = None

    async def ask() -> None:
        nonlocal asked
        engine = gate.engine
        if engine is None or engine is asked:
            return
        with suppress(EngineAwayError, EngineError):  # asked again in a moment; turns go on unbounded until then
            tokens = await engine.cache_tokens()
            asked = engine
            admission.bound(tokens or 0)
            events.emit("gateway.kv_cache", tokens=tokens)

    await for_ever(ASK_S, ask)
