from __future__ import annotations

import httpx2
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from agentops.clients.memory import MemoryClient, MemoryUnavailable

pytestmark = pytest.mark.anyio


async def test_a_refusal_is_a_span_that_failed() -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    refusing = httpx2.MockTransport(lambda _: httpx2.Response(503, json={"error": "the disk is full"}))
    client = MemoryClient("http://memory", transport=refusing)
    client._tracer = provider.get_tracer("test")
    async with client:
        with pytest.raises(MemoryUnavailable, match="HTTP 503: the disk is full"):
            await client.search("x", "shop")
    (span,) = exporter.get_finished_spans()
    assert (span.name, span.status.status_code) == ("memory.search", StatusCode.ERROR)
    assert "the disk is full" in str(span.status.description)
