"""Pointing an agent at the gateway: base URL, key and model name in the form each of Harbor's agents wants.

The session's key travels in environment variables that Harbor knows to be secret (it scrubs them from every file of the trial), never in
the URL, which Harbor writes down. An agent that runs inside the sandbox reaches the gateway where the sandbox shows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from harbor.agents.base import BaseAgent
from harbor.agents.factory import AgentFactory, _import_agent_class
from harbor.agents.installed.base import BaseInstalledAgent
from harbor.models.agent.name import AgentName
from harbor.models.trial.config import AgentConfig

from swerl.errors import fail
from swerl.trials.agents.mini import KEY_VARIABLE

FAR_S = 30 * 86400.0  # Harbor's deadline; the real one is ours (see `clock`)
UTILITY = ("oracle", "nop")


@dataclass(frozen=True, slots=True)
class Wire:
    """What an agent speaks: the model's prefix (None: the bare name, which spares ten seconds of litellm's import), the path behind the
    gateway's address, and the variables that carry the key."""

    prefix: str | None
    path: str
    keys: tuple[str, ...]
    api_format: str | None = None


_OPENAI = Wire("openai", "/v1", ("OPENAI_API_KEY",))
WIRES: Mapping[str, Wire] = {
    "claude-code": Wire("anthropic", "", ("ANTHROPIC_API_KEY",)),
    "mini-swe-agent": Wire("openai", "/v1", ("OPENAI_API_KEY", "MSWEA_API_KEY")),
    "openhands-sdk": Wire("openai", "/v1", ("OPENAI_API_KEY", "LLM_API_KEY")),
    "opencode": Wire("local", "/v1", ("LOCAL_API_KEY", "OPENAI_API_KEY"), "openai_chat_completions"),
    "swerl-mini": Wire(None, "/v1", (KEY_VARIABLE,)),
}


@cache
def agent_class(name: str | None, import_path: str | None) -> type[BaseAgent]:
    """SwerlError SWERL-T030 when there is no such agent."""
    try:
        if import_path:
            return _import_agent_class(import_path)
        return AgentFactory.get_agent_class(AgentName(name))
    except (ValueError, ImportError, AttributeError) as error:
        raise fail(
            "SWERL-T030",
            f"no agent {import_path or name!r}: {error}",
            "set harbor_agent.agent_name to an agent of Harbor, or an import path",
        ) from error


def is_utility(agent: Mapping[str, Any]) -> bool:
    """Agents without a model: they need no session."""
    return agent.get("import_path") is None and agent.get("name") in UTILITY


def agent_config(agent: Mapping[str, Any], *, public_url: str | None, inside_url: str | None, key: str | None) -> AgentConfig:
    """Harbor's agent configuration for one attempt. ``agent`` is the run's part of it; ``inside_url`` None means the sandbox has no way out
    but the public address. SwerlError SWERL-T031 when the agent needs the gateway from inside a sandbox without a network."""
    given = {name: value for name, value in agent.items() if name not in ("override_timeout_sec", "max_timeout_sec")}
    if is_utility(agent):
        return AgentConfig(name=agent["name"], override_timeout_sec=FAR_S)
    cls = agent_class(agent.get("name"), agent.get("import_path"))
    wire = WIRES.get(cls.name(), _OPENAI)
    url = inside_url if issubclass(cls, BaseInstalledAgent) else public_url
    if url is None or key is None:
        raise fail(
            "SWERL-T031",
            f"the agent {cls.name()} runs inside the sandbox and cannot reach the gateway from there",
            'set harbor_runtime.sandbox.network to "gateway"',
        )
    model = str(given.pop("model_name", None) or "policy").split("/", 1)[-1]
    kwargs = dict(given.pop("kwargs", {}))
    if cls.options_model is not None:  # the agent declares its options and refuses others
        kwargs = {name: value for name, value in kwargs.items() if name in cls.options_model.model_fields}
    env = {**given.pop("env", {}), **dict.fromkeys(wire.keys, key)}
    return AgentConfig(
        **given,
        model_name=model if wire.prefix is None else f"{wire.prefix}/{model}",
        skip_model_parsing=wire.prefix is None,
        base_url=url.rstrip("/") + wire.path,
        model_api_format=wire.api_format,
        override_timeout_sec=FAR_S,
        kwargs=kwargs,
        env=env,
    )


def agent_limit_s(agent: Mapping[str, Any], task_timeout_s: float | None, multiplier: float | None) -> float | None:
    """The agent's own time, by the reference's rule: the run's value or the task's, capped, times the multiplier. None: no limit."""
    base = agent.get("override_timeout_sec") or task_timeout_s
    if base is None:
        return None
    return min(base, agent.get("max_timeout_sec") or float("inf")) * (multiplier or 1.0)
