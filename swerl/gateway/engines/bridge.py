"""The engine bridge over HTTP: verl's engines while a trainer runs, the scripted engine in tests.

``POST /generate``, ``POST /abort`` and ``POST /cache`` as in `swerl.gateway.engines.scripted`. Status 409 (another epoch), 503 and a broken
connection mean that the engine is away; any other error status is the engine's refusal of this request.
"""

from __future__ import annotations

from collections.abc import Sequence

import aiohttp
import orjson

from swerl.gateway.engines.base import EngineSpec, OnTokens, Piece, Sampling, checked
from swerl.gateway.errors import EngineAwayError, EngineError

_AWAY_STATUS = (401, 409, 502, 503, 504)  # 401: the token of another start of the trainer


class BridgeEngine:
    def __init__(self, spec: EngineSpec):
        self._epoch = spec.epoch
        self._client = aiohttp.ClientSession(
            base_url=spec.url,
            headers={"Authorization": f"Bearer {spec.token}", "Content-Type": "application/json"},
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
        )

    async def generate(
        self, request_id: str, session: str, prompt_json: bytes, sampling: Sampling, on_tokens: OnTokens | None = None
    ) -> Piece:
        """verl's client answers whole pieces: ``on_tokens`` is never called."""
        rest = {"epoch": self._epoch, "request_id": request_id, "session": session, "sampling": sampling.as_dict()}
        answer = await self._post("/generate", b'{"prompt_ids":[%b],%b' % (prompt_json, orjson.dumps(rest)[1:]))
        try:
            cached = int(answer.get("cached_tokens") or 0)
            return checked(Piece(answer["token_ids"], answer["logprobs"], answer["versions"], answer["finish_reason"], cached))
        except (KeyError, ValueError, TypeError) as error:
            raise EngineError(f"the engine's answer breaks the protocol: {error}") from error

    async def abort(self, request_ids: Sequence[str]) -> None:
        await self._post("/abort", orjson.dumps({"epoch": self._epoch, "request_ids": list(request_ids)}))

    async def cache_tokens(self) -> int | None:
        answer = await self._post("/cache", orjson.dumps({"epoch": self._epoch}))
        tokens = answer.get("kv_cache_tokens")
        return tokens if isinstance(tokens, int) else None

    async def close(self) -> None:
        await self._client.close()

    async def _post(self, path: str, body: bytes) -> dict:
        try:
            async with self._client.post(path, data=body) as response:
                data = await response.read()
                if response.status in _AWAY_STATUS:
                    raise EngineAwayError(f"{response.status} from {path}")
                if response.status != 200:
                    raise EngineError(f"the engine answered {response.status}: {data[:300].decode(errors='replace')}")
                return orjson.loads(data)
        except (TimeoutError, aiohttp.ClientError, ConnectionError) as error:
            raise EngineAwayError(f"{type(error).__name__}: {error}") from error
        except orjson.JSONDecodeError as error:
            raise EngineError(f"the engine's answer is no JSON: {error}") from error
        except RuntimeError as error:
            if self._client.closed:  # the gate has moved on to another engine
                raise EngineAwayError("the engine was replaced") from error
            raise
