"""A plain vLLM server as the engine, for evaluation and inference without a trainer: ``POST /inference/v1/generate``, token ids both ways.

The answer is streamed, so an aborted request keeps what it has and the count of cached prompt tokens comes along (with vLLM's
``--enable-prompt-tokens-details``). A request ends in the engine when its connection ends, which is how it is aborted here. vLLM does not
say which weights it serves; every token gets the version of the registration. Status 404 and 5xx while the server boots mean away, and so
does a failed request where the server's health check is not well: then its engine is dead, whatever the request was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import aiohttp
import orjson

from swerl.gateway.engines.base import EngineSpec, FinishReason, OnTokens, Piece, Sampling, checked
from swerl.gateway.engines.metrics_text import tokens_in
from swerl.gateway.errors import EngineAwayError, EngineError

_AWAY_STATUS = (401, 404, 502, 503, 504)
_FINISH: dict[str, FinishReason] = {"stop": "stop", "length": "length", "abort": "aborted"}
_LINE_BYTES = 1 << 24


class VllmHttpEngine:
    def __init__(self, spec: EngineSpec):
        self._version = spec.version
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {spec.token}"} if spec.token else {})}
        self._client = aiohttp.ClientSession(
            base_url=spec.url,
            headers=headers,
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=4),  # below uvicorn's 5 s, so that no request meets a closing line
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
            read_bufsize=_LINE_BYTES,
        )
        self._running: dict[str, _Running] = {}

    async def generate(
        self, request_id: str, session: str, prompt_json: bytes, sampling: Sampling, on_tokens: OnTokens | None = None
    ) -> Piece:
        params = {**sampling.as_dict(), "logprobs": 0, "skip_special_tokens": False}
        rest = {"request_id": request_id, "sampling_params": params, "stream": True, "stream_options": {"include_usage": True}}
        running = self._running[request_id] = _Running(on_tokens)
        try:
            await self._read(b'{"token_ids":[%b],%b' % (prompt_json, orjson.dumps(rest)[1:]), running)
            return checked(running.piece(self._version))
        except EngineError as error:
            if not await self._healthy():
                raise EngineAwayError(str(error)) from error
            raise
        except (TimeoutError, aiohttp.ClientError, ConnectionError) as error:
            if running.aborted or running.token_ids:  # what has come is kept and gone on from, like a piece that was aborted
                return checked(running.piece(self._version))
            raise EngineAwayError(f"{type(error).__name__}: {error}") from error
        except (orjson.JSONDecodeError, KeyError, IndexError, TypeError, ValueError) as error:
            raise EngineError(f"the engine's answer breaks the protocol: {error!r}") from error
        finally:
            del self._running[request_id]

    async def abort(self, request_ids: Sequence[str]) -> None:
        for request_id in request_ids:
            if (running := self._running.get(request_id)) is not None:
                running.aborted = True
                if running.response is not None:
                    running.response.close()

    async def cache_tokens(self) -> int | None:
        try:
            async with self._client.get("/metrics", timeout=aiohttp.ClientTimeout(total=10)) as response:
                if response.status in _AWAY_STATUS:
                    raise EngineAwayError(f"{response.status} from /metrics")
                return tokens_in(await response.text()) if response.status == 200 else None
        except (TimeoutError, aiohttp.ClientError, ConnectionError) as error:
            raise EngineAwayError(f"{type(error).__name__}: {error}") from error

    async def _healthy(self) -> bool:
        try:
            async with self._client.get("/health", timeout=aiohttp.ClientTimeout(total=10)) as response:
                return response.status < 500
        except (TimeoutError, aiohttp.ClientError, ConnectionError):
            return False

    async def close(self) -> None:
        await self._client.close()

    async def _read(self, body: bytes, running: _Running) -> None:
        async with self._client.post("/inference/v1/generate", data=body) as response:
            if response.status in _AWAY_STATUS:
                raise EngineAwayError(f"{response.status} from /inference/v1/generate")
            if response.status != 200:
                raise EngineError(f"the engine answered {response.status}: {(await response.read())[:300].decode(errors='replace')}")
            running.response = response
            if running.aborted:  # while it was on its way
                return
            async for line in response.content:
                if line.startswith(b"data: {"):
                    running.take(orjson.loads(line[6:]))


class _Running:
    """What has come of one request so far."""

    def __init__(self, on_tokens: OnTokens | None) -> None:
        self._on_tokens = on_tokens
        self.token_ids: list[int] = []
        self.logprobs: list[float] = []
        self.finish: FinishReason | None = None
        self.cached_tokens = 0
        self.aborted = False
        self.response: aiohttp.ClientResponse | None = None

    def take(self, event: dict[str, Any]) -> None:
        if "error" in event:
            raise EngineError(f"the engine failed: {event['error']}")
        for choice in event["choices"]:
            new = choice["token_ids"] or ()
            self.logprobs.extend(entry["logprob"] for entry in (choice["logprobs"] or {"content": ()})["content"])
            self.token_ids.extend(new)
            if new and self._on_tokens is not None:
                self._on_tokens(new)
            if choice.get("finish_reason") is not None:
                self.finish = _FINISH[choice["finish_reason"]]
        if (usage := event.get("usage")) is not None:
            self.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0

    def piece(self, version: int) -> Piece:
        if self.finish is None and not self.aborted and not self.token_ids:
            raise EngineAwayError("the engine's answer broke off")
        versions = [version] * len(self.token_ids)
        return Piece(self.token_ids, self.logprobs, versions, self.finish or "aborted", self.cached_tokens)
