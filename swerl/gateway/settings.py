"""What the gateway needs to know, as plain data; `settings_from` takes it out of a run's configuration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from swerl.config import RunConfig


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """``window_tokens`` bounds prompt plus answer; ``prompt_tokens`` the first prompt of a session and ``response_tokens`` everything after
    it (None: only the window bounds them). ``disconnect_grace_s``: how long a generation goes on without a client before it is aborted;
    an SDK's retry comes within it and gets the answer. ``advertised_host`` is the name agents are told when ``host`` is a wildcard."""

    model_path: Path
    journal_dir: Path
    events_path: Path
    services_path: Path | None = None
    host: str = "127.0.0.1"
    advertised_host: str = ""
    port: int = 0
    served_model: str = "policy"
    chat_template: Path | None = None
    tool_parser: str = "auto"
    reasoning_parser: str | None = None
    window_tokens: int = 32768
    prompt_tokens: int | None = None
    response_tokens: int | None = None
    on_rewrite: Literal["keep", "branch"] = "keep"
    sampling: Literal["run", "client"] = "run"
    max_body_mb: int = 64
    body_s: float = 300.0  # a client may take this long to send a request's body
    read_s: float = 120.0  # a client may take this long to read what it is sent before more is sent
    idle_connection_s: float = 75.0  # a connection may be this long without a whole request head
    max_hold_s: float = 3600.0
    max_in_flight: int = 2048  # turns with the engine at a time; an engine bridge admits fewer and queues the rest
    kv_cache_tokens: int = 0  # tokens of context with the engine at a time; 0: not bounded, -1: what the engine says it holds
    keepalive_s: float = 10.0
    max_sessions: int = 16384
    disconnect_grace_s: float = 5.0
    engine_url: str | None = None  # a plain vLLM server, for evaluation and inference; None waits for a bridge to register


def settings_from(cfg: RunConfig, run_dir: Path, engine_url: str | None = None) -> GatewaySettings:
    return GatewaySettings(
        model_path=cfg.model.model_path,
        journal_dir=run_dir / "gateway",
        events_path=run_dir / "events" / "gateway.jsonl",
        services_path=run_dir / "services.json",
        host=cfg.infrastructure.bind_host,
        advertised_host=cfg.infrastructure.node0_ip,
        port=cfg.infrastructure.litellm_port,
        served_model=cfg.model.served_model_name,
        chat_template=cfg.model.chat_template,
        tool_parser=cfg.model.tool_parser,
        reasoning_parser=cfg.model.reasoning_parser,
        window_tokens=cfg.vllm.max_model_length,
        prompt_tokens=cfg.training.max_prompt_length,
        response_tokens=cfg.training.max_response_length,
        on_rewrite=cfg.gateway.on_rewrite,
        sampling=cfg.gateway.sampling,
        max_body_mb=cfg.gateway.max_body_mb,
        body_s=float(cfg.gateway.body_timeout_sec),
        read_s=float(cfg.gateway.read_timeout_sec),
        max_hold_s=float(cfg.gateway.max_hold_sec),
        keepalive_s=float(cfg.gateway.keepalive_sec),
        max_sessions=cfg.gateway.max_sessions,
        kv_cache_tokens=cfg.gateway.kv_cache_tokens,
        engine_url=engine_url,
    )
