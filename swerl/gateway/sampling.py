"""One turn from the engine: what to ask for, and asking until the turn is whole.

A turn may take several pieces: a weight update aborts the request, and the rest is sampled from prompt plus piece under the new version.
Each token keeps the log-probability and version of the piece it came from.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, Literal

import orjson

from swerl.gateway.chat import ChatRequest
from swerl.gateway.engines.base import Sampling
from swerl.gateway.errors import ApiError, EngineAwayError, EngineError
from swerl.gateway.gate import EngineGate, Hold
from swerl.gateway.live import LiveTokens
from swerl.gateway.settings import GatewaySettings
from swerl.gateway.tree import Context, Turn, lineage, path_json

_TRIES = 3
_RETRY_S = 0.2


@dataclass(frozen=True, slots=True)
class Sampled:
    token_ids: list[int]
    logprobs: list[float]
    versions: list[int]
    finish: Literal["stop", "length"]
    cached_tokens: int


def room_tokens(settings: GatewaySettings, context: Context) -> int:
    """How many tokens a turn at ``context`` may have; at most 0 when the conversation is full."""
    room = settings.window_tokens - context.end
    if context.depth == 0:
        if settings.prompt_tokens is not None and context.end > settings.prompt_tokens:
            return 0
        used = 0
    else:
        first = next(n for n in lineage(context) if isinstance(n, Turn))
        used = context.end - first.parent.end
    return room if settings.response_tokens is None else min(room, settings.response_tokens - used)


def limit_tokens(settings: GatewaySettings, context: Context) -> int:
    """The limit that ``context`` ran into, for the error message."""
    return context.end + room_tokens(settings, context) if context.depth else min(settings.window_tokens, settings.prompt_tokens or 10**12)


def sampling_for(
    settings: GatewaySettings, run: Mapping[str, Any], request: ChatRequest, room: int, seed: int, stop_ids: frozenset[int]
) -> Sampling:
    """The run's values win; ``gateway.sampling: client`` lets a client's values win instead. The shortest of all length limits holds."""

    def choose(name: str, default: float) -> Any:
        order = (getattr(request, name), run.get(name)) if settings.sampling == "client" else (run.get(name),)
        return next((v for v in order if v is not None), default)

    limits = [v for v in (run.get("max_tokens"), request.max_tokens) if v is not None]
    return Sampling(
        temperature=float(choose("temperature", 1.0)),
        top_p=float(choose("top_p", 1.0)),
        top_k=int(choose("top_k", -1)),
        max_tokens=max(1, min([room, *limits])),
        seed=seed,
        stop=request.stop,
        stop_token_ids=tuple(sorted(stop_ids)),
    )


def request_seed(session_seed: int, context: Context, sibling: int) -> int:
    """The same for the same place in the same session, whatever else runs at the time; different for every sample taken there."""
    start = context.start
    state = blake2b(f"{session_seed}:{context.depth}:{sibling}:".encode() + start.key, digest_size=8)
    return int.from_bytes(state.digest(), "little") & 0x7FFFFFFF


async def sample(
    gate: EngineGate, session_id: str, work_id: str, context: Context, sampling: Sampling, held: Hold, live: LiveTokens
) -> Sampled:
    """``live`` is told of tokens as they come, where the engine streams. Raises ApiError 502 when the engine refuses the request, 503 when
    it stays away too long."""
    prompt = path_json(context)
    token_ids: list[int] = []
    logprobs: list[float] = []
    versions: list[int] = []
    cached: int | None = None
    attempt = failures = 0
    while (left := sampling.max_tokens - len(token_ids)) > 0:
        rest = replace(sampling, max_tokens=left, seed=None if sampling.seed is None else (sampling.seed + len(token_ids)) & 0x7FFFFFFF)
        whole = prompt if not token_ids else b"%b,%b" % (prompt, orjson.dumps(token_ids)[1:-1])
        request_id = f"{work_id}.{attempt}"
        attempt += 1
        began, held_s = time.monotonic(), held.total_s
        try:
            async with gate.passage(request_id, held) as engine:
                live.begin(len(token_ids))
                piece = await engine.generate(request_id, session_id, whole, rest, live.feed)
        except EngineAwayError:
            held.give(began, held_s)
            continue
        except EngineError as error:
            failures += 1
            if failures == _TRIES:
                raise ApiError(502, "engine_error", str(error), retry=True) from error
            await asyncio.sleep(_RETRY_S * failures)
            continue
        token_ids.extend(piece.token_ids)
        logprobs.extend(piece.logprobs)
        versions.extend(piece.versions)
        cached = piece.cached_tokens if cached is None else cached
        if piece.finish != "aborted":
            return Sampled(token_ids, logprobs, versions, piece.finish, cached)
        if not piece.token_ids:
            await asyncio.sleep(0.02)  # an engine that aborts at once must not be asked in a tight loop
    return Sampled(token_ids, logprobs, versions, "length", cached or 0)
