"""Spans say what a turn was; without an endpoint there is nothing."""

from __future__ import annotations

import asyncio

from gatewaykit import running

from swerl.gateway.spans import Spans


def test_a_turn_is_a_span(tmp_path, model_dir, vllm_reader):
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    async def main():
        async with running(tmp_path, model_dir, vllm_reader, lambda turn: "hi") as kit:
            kit.gateway.public.spans = Spans(provider)
            session, key = await kit.open(trial={"task": "t"})
            usage = (await kit.chat(key, [{"role": "user", "content": "hello"}]))["usage"]
            return session, usage

    session, usage = asyncio.run(main())
    (span,) = exporter.get_finished_spans()
    assert span.name == "gateway.turn" and span.end_time >= span.start_time
    told = span.attributes
    assert (told["swerl.session"], told["swerl.trial.task"], told["swerl.api"]) == (session, "t", "OpenAIChat")
    assert told["gen_ai.usage.input_tokens"] == usage["prompt_tokens"]
    assert told["gen_ai.usage.output_tokens"] == usage["completion_tokens"]


def test_spans_are_off_until_asked_for():
    off = Spans.from_environment({})
    assert off._tracer is None
    on = Spans.from_environment({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"})
    assert on._tracer is not None
    on.close()
