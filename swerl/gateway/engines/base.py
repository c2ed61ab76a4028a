"""The protocol the gateway speaks to an engine, and the data that goes over it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

OnTokens = Callable[[Sequence[int]], None]
FinishReason = Literal["stop", "length", "aborted"]


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """Where an engine is. ``epoch`` rises with every start of the trainer; ``token`` is a secret; ``version`` is that of the weights at
    registration and not part of the engine's identity."""

    kind: Literal["bridge", "vllm"]
    url: str
    token: str
    epoch: int
    version: int = field(default=0, compare=False)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Sampling:
    """``max_tokens`` is what is left for this piece; ``seed`` None lets the engine choose."""

    temperature: float
    top_p: float
    top_k: int
    max_tokens: int
    seed: int | None
    stop: tuple[str, ...]
    stop_token_ids: tuple[int, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON form; what is not set is absent."""
        values = asdict(self)
        return {k: v for k, v in values.items() if v is not None and v != ()}


@dataclass(frozen=True, slots=True)
class Piece:
    """What one request brought. ``finish`` "aborted" means the turn is not over: the piece is resumed or dropped."""

    token_ids: Sequence[int]
    logprobs: Sequence[float]
    versions: Sequence[int]
    finish: FinishReason
    cached_tokens: int


class Engine(Protocol):
    async def generate(
        self, request_id: str, session: str, prompt_json: bytes, sampling: Sampling, on_tokens: OnTokens | None = None
    ) -> Piece:
        """``prompt_json`` is the inside of a JSON list of token ids; an engine that streams tells ``on_tokens`` of each part of the piece
        as it comes. Raises EngineAwayError, or EngineError for an answer that breaks the protocol."""
        ...

    async def abort(self, request_ids: Sequence[str]) -> None: ...

    async def cache_tokens(self) -> int | None:
        """What its KV caches hold together; None when it does not say. Raises EngineAwayError or EngineError."""
        ...

    async def close(self) -> None: ...


def checked(piece: Piece) -> Piece:
    """Raises ValueError unless every token has its log-probability and version."""
    if not len(piece.token_ids) == len(piece.logprobs) == len(piece.versions):
        counts = f"{len(piece.token_ids)} tokens, {len(piece.logprobs)} log-probabilities, {len(piece.versions)} versions"
        raise ValueError(f"the engine's lists differ in length: {counts}")
    if piece.finish not in ("stop", "length", "aborted"):
        raise ValueError(f"unknown finish reason {piece.finish!r}")
    if piece.finish != "aborted" and not piece.token_ids:
        raise ValueError("a finished piece without tokens")
    return piece
