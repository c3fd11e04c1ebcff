"""What the runtime's spans say, in the names of OpenTelemetry's conventions for generative AI.

Prompts, answers and what tools were told and said are in no span, unless `OTEL_GENAI_CAPTURE_CONTENT` is `true` in the
agent's environment; then they are span events, cut to 2,000 characters.
"""

from __future__ import annotations

import os

from opentelemetry.trace import Span, Status, StatusCode

from agentops.api.runs import RunFailure, RunRecord, Usage

CAPTURE_CONTENT = "OTEL_GENAI_CAPTURE_CONTENT"
MAX_CONTENT = 2000


def usage_attributes(usage: Usage) -> dict[str, int]:
    """Tokens; kinds a provider does not tell are left out."""
    told = {
        "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cache_read_tokens,
        "gen_ai.usage.cache_creation.input_tokens": usage.cache_creation_tokens,
    }
    return {
        "gen_ai.usage.input_tokens": usage.input_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
        **{name: count for name, count in told.items() if count},
    }


def close_turn(span: Span, record: RunRecord) -> None:
    """How a turn ended, on its span."""
    span.set_attributes({"agent.steps": record.steps, **usage_attributes(record.usage)})
    if record.model:
        span.set_attribute("gen_ai.response.model", record.model.partition("/")[2] or record.model)
    if record.error is not None:
        span.set_attribute("error.type", str(record.reason or RunFailure.ERROR))
        span.set_status(Status(StatusCode.ERROR, record.error[:MAX_CONTENT]))
    content(span, "gen_ai.assistant.message", record.output)


def content(span: Span, event: str, text: str) -> None:
    """`text` as a span event, where content is wanted."""
    if text and span.is_recording() and os.environ.get(CAPTURE_CONTENT, "").lower() in ("true", "1"):
        span.add_event(event, {"content": text[:MAX_CONTENT]})
