"""Agents as most SDKs make them: a request is tried three times, each for a short while, and then the agent gives up."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import aiohttp

from swerl.trials.agents.mini import KEY_VARIABLE, TOOLS, AgentProtocolError, MiniAgent, _Stop

TRIES = 3


class Loud(MiniAgent):
    """Ends with an error that counts against the agent."""

    patience_s = 0.8

    async def _ask(self, http: aiohttp.ClientSession, messages: list[dict[str, Any]]) -> Mapping[str, Any]:
        headers, said = {"Authorization": f"Bearer {self._extra_env[KEY_VARIABLE]}"}, ""
        for _ in range(TRIES):
            try:
                body, timeout = {"model": "policy", "messages": messages, "tools": TOOLS}, aiohttp.ClientTimeout(total=self.patience_s)
                async with http.post(self._url, json=body, headers=headers, timeout=timeout) as response:
                    if response.status == 200:
                        return await response.json()
                    said = f"{response.status}: {await response.text()}"
            except (TimeoutError, aiohttp.ClientError) as error:
                said = repr(error)
            await asyncio.sleep(0.1)
        return self._give_up(said)

    def _give_up(self, said: str) -> Mapping[str, Any]:
        raise AgentProtocolError(said)


class Patient(Loud):
    """Long enough for an engine at work, too short for one that has to be started again."""

    patience_s = 10.0


class Quiet(Loud):
    """Ends as if it were done, with whatever it has."""

    def _give_up(self, said: str) -> Mapping[str, Any]:
        raise _Stop("done")
