"""FEP, the events a turn streams: over SSE from a daemon, on standard output from a task.

Every event is one flat JSON object with `type`, `timestamp` (RFC 3339, milliseconds), `seq` and
`session_id`. `seq` grows by one per event and is also the SSE `id`; a daemon goes on above the numbers
of its earlier process, so that replay never confuses two. Keys are snake_case, those of the
`delegation.*` events camelCase. One turn reads

    agent_start
    ( step_start
      [reasoning_start reasoning_delta* reasoning_end]* [text_start text_delta* text_end]*
      [tool_input_start tool_input_delta* tool_input_end tool_call … tool_result]*
      stream_finish step_finish )*
    agent_finish | agent_error
    session_idle
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from attrs import field, frozen

from agentops.api.codec import WireError
from agentops.values.clock import parse_rfc3339


class EventType(StrEnum):
    """All types a runtime emits."""

    AGENT_START = "agent_start"
    STEP_START = "step_start"
    REASONING_START = "reasoning_start"
    REASONING_DELTA = "reasoning_delta"
    REASONING_END = "reasoning_end"
    TEXT_START = "text_start"
    TEXT_DELTA = "text_delta"
    TEXT_END = "text_end"
    TOOL_INPUT_START = "tool_input_start"
    TOOL_INPUT_DELTA = "tool_input_delta"
    TOOL_INPUT_END = "tool_input_end"
    TOOL_CALL = "tool_call"
    TOOL_RESULT = "tool_result"
    SOURCE = "source"
    WARNINGS = "warnings"
    STREAM_FINISH = "stream_finish"
    STEP_FINISH = "step_finish"
    PERMISSION_ASKED = "permission_asked"
    QUESTION_ASKED = "question_asked"
    AGENT_FINISH = "agent_finish"
    AGENT_ERROR = "agent_error"
    SESSION_IDLE = "session_idle"
    # Beyond the 22 of the documented protocol: what a reader needs to keep its view right.
    MODEL_FALLBACK = "model_fallback"
    TEXT_RESET = "text_reset"
    SESSION_STATUS = "session_status"
    TOOL_PROGRESS = "tool_progress"
    """`id, tool_name, delta`: what a tool shows between its call and its result."""
    STEER_APPLIED = "steer_applied"
    """`message`: what a user said into the turn reaches the model with its next call."""


class FinishReason(StrEnum):
    """Why a model stopped."""

    STOP = "stop"
    LENGTH = "length"
    CONTENT_FILTER = "content-filter"
    TOOL_CALLS = "tool-calls"
    ERROR = "error"
    OTHER = "other"
    UNKNOWN = "unknown"


@frozen(slots=True, kw_only=True)
class Event:
    """One event. `data` holds the type's own fields, as they stand on the wire."""

    type: str
    session_id: str
    seq: int
    timestamp: datetime
    run: str | None = None
    """The run the event belongs to, when it was started by one."""
    data: dict[str, Any] = field(factory=dict)

    def to_wire(self) -> dict[str, Any]:
        """The flat object."""
        stamp = self.timestamp.strftime("%Y-%m-%dT%H:%M:%S.") + f"{self.timestamp.microsecond // 1000:03d}Z"
        head: dict[str, Any] = {
            "type": str(self.type),
            "seq": self.seq,
            "timestamp": stamp,
            "session_id": self.session_id,
        }
        if self.run is not None:
            head["run"] = self.run
        return {**head, **self.data}

    @classmethod
    def from_wire(cls, raw: Any) -> Event:
        """Raises WireError unless `raw` is an object with a `type`."""
        if not isinstance(raw, dict) or not isinstance(raw.get("type"), str):
            raise WireError("an event is a JSON object with a string `type`")
        rest = dict(raw)
        kind = rest.pop("type")
        try:
            timestamp = parse_rfc3339(rest.pop("timestamp"))
            seq = int(rest.pop("seq", 0))
        except (KeyError, TypeError, ValueError) as error:
            raise WireError(f"event {kind}: bad timestamp or seq: {error}") from error
        return cls(
            type=kind,
            session_id=str(rest.pop("session_id", "")),
            seq=seq,
            timestamp=timestamp,
            run=rest.pop("run", None),
            data=rest,
        )
