"""OpenTelemetry traces, exported only when an endpoint was given.

Context crosses processes as a W3C `traceparent`, in HTTP headers and in the AgentRun annotation.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from opentelemetry import propagate, trace
from opentelemetry.context import Context

from agentops._version import __version__

if TYPE_CHECKING:  # the SDK is two megabytes, for those who export
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter


EXPORT_TIMEOUT_S = 3.0
"""How long one export may take, retries included."""


def tracer(name: str) -> trace.Tracer:
    """A component's tracer; without `configure` its spans go nowhere and cost nothing."""
    return trace.get_tracer(f"agentops.{name}", __version__)


def configure(
    service_name: str, endpoint: str | None = None, exporter: SpanExporter | None = None, **attributes: str
) -> TracerProvider | None:
    """Install the process's tracer provider. Without `endpoint` and `exporter` nothing is installed.

    `endpoint` is an OTLP/HTTP base URL such as `http://tempo:4318`; OTEL_SERVICE_NAME overrides `service_name`, and
    `attributes` describe the process further. Call `shutdown()` on the result in a thread at exit: it flushes. Raises
    ValueError when `endpoint`, or an OTEL_ variable that the exporter reads, is not what it must be.
    """
    if exporter is None:
        if not endpoint:
            return None
        require_endpoint(endpoint)
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        # its default of 10 s is also what a role waits at its end for a collector that is away
        timeout_s = None if os.environ.get("OTEL_EXPORTER_OTLP_TIMEOUT") else EXPORT_TIMEOUT_S
        exporter = OTLPSpanExporter(endpoint=endpoint.rstrip("/") + "/v1/traces", timeout=timeout_s)
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    named = os.environ.get("OTEL_SERVICE_NAME") or service_name
    described = {"service.name": named, "service.version": __version__, **attributes}
    provider = TracerProvider(resource=Resource.create(described))
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=2000))
    trace.set_tracer_provider(provider)
    return provider


def require_endpoint(text: str) -> None:
    """Raises ValueError unless `text` is an HTTP base URL: spans for anything else would vanish one by one."""
    url = urlsplit(text)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError(f"{text!r} is not an OTLP/HTTP base URL such as http://tempo:4318")


def inject(headers: MutableMapping[str, str]) -> None:
    """Add the current span's `traceparent` to `headers`."""
    propagate.inject(headers)


def extract(traceparent: str | None) -> Context | None:
    """The remote parent, or None when there is none or it is malformed."""
    if not traceparent:
        return None
    context = propagate.extract({"traceparent": traceparent})
    return context if trace.get_current_span(context).get_span_context().is_valid else None
