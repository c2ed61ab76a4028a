"""Optional OpenTelemetry spans: one ``gateway.turn`` per answered request, from its arrival to its last byte.

On where ``OTEL_EXPORTER_OTLP_ENDPOINT`` (or ``..._TRACES_ENDPOINT``) is set, as OpenTelemetry itself understands it; then its packages are
imported, and spans are exported in batches from a thread. Otherwise nothing is imported and nothing is done per request.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from swerl.errors import fail

if TYPE_CHECKING:
    from swerl.gateway.session import Session
    from swerl.gateway.tree import Turn

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


class Spans:
    """``provider`` is an OpenTelemetry TracerProvider, or None for no spans."""

    def __init__(self, provider: Any = None):
        self._provider = provider
        self._tracer = None if provider is None else provider.get_tracer("swerl.gateway")

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Spans:
        """Raises SWERL-G011 when spans are asked for and the packages are not there."""
        if not any(environ.get(name) for name in _ENDPOINTS):
            return cls()
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            remedy = "install opentelemetry-sdk and opentelemetry-exporter-otlp, or unset the variable"
            raise fail("SWERL-G011", f"OpenTelemetry spans are asked for and cannot be made: {error}", remedy, _ENDPOINTS[0]) from error
        provider = TracerProvider(resource=Resource.create({"service.name": "swerl-gateway"}))
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        return cls(provider)

    def answered(self, session: Session, turn: Turn, api: str, seconds: float) -> None:
        if self._tracer is None:
            return
        end_ns = time.time_ns()
        attributes = {
            "swerl.session": session.id,
            "swerl.api": api,
            "swerl.turn": turn.id,
            "swerl.depth": turn.depth,
            "swerl.version": turn.versions[-1],
            "swerl.session_hold_s": round(session.hold.total_s, 3),
            "gen_ai.usage.input_tokens": turn.parent.end,
            "gen_ai.usage.output_tokens": turn.tokens.count,
            "gen_ai.usage.cached_tokens": turn.cached_tokens,
            **{f"swerl.trial.{name}": value for name, value in session.trial.items() if isinstance(value, (str, int, float))},
        }
        span = self._tracer.start_span("gateway.turn", start_time=end_ns - int(seconds * 1e9), attributes=attributes)
        span.end(end_time=end_ns)

    def close(self) -> None:
        if self._provider is not None:
            self._provider.shutdown()
