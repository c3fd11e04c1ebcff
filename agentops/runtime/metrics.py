"""What the runtime counts. Labels are bounded: no run names, no text from the model."""

from __future__ import annotations

from agentops.api.runs import Usage
from agentops.telemetry.metrics import Registry

_TTFT_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120)


class RuntimeMetrics:
    """The metrics of one agent on `registry`."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self._turns = registry.counter(
            "agentops_turns_total", "Turns by how they ended: succeeded, failed, aborted, interrupted.", ["outcome"]
        )
        self._tokens = registry.counter(
            "agentops_tokens_total", "Tokens as providers counted them; cached ones are part of input.", ["kind"]
        )
        self._tools = registry.counter(
            "agentops_tool_calls_total", "Tool calls; a name the agent does not have counts as unknown.",
            ["tool", "outcome"],
        )  # fmt: skip
        self._sandbox = registry.gauge(
            "agentops_tool_sandbox", "1 for what keeps the tools inside: landlock, or none.", ["kind"]
        )
        self._first_token = registry.histogram(
            "agentops_time_to_first_token_seconds",
            "From the start of a model call to the first piece of its answer.",
            buckets=_TTFT_BUCKETS,
        )

    def turn_ended(self, outcome: str) -> None:
        self._turns.labels(outcome).inc()

    def tokens_used(self, usage: Usage) -> None:
        for kind, count in (
            ("input", usage.input_tokens),
            ("output", usage.output_tokens),
            ("reasoning", usage.reasoning_tokens),
            ("cache_read", usage.cache_read_tokens),
            ("cache_creation", usage.cache_creation_tokens),
        ):
            if count:
                self._tokens.labels(kind).inc(count)

    def tool_called(self, tool: str, outcome: str) -> None:
        self._tools.labels(tool, outcome).inc()

    def sandboxed(self, kind: str) -> None:
        self._sandbox.labels(kind).set(1)

    def first_token(self, seconds: float) -> None:
        self._first_token.observe(seconds)
