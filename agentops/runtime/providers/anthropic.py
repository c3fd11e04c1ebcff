"""Anthropic's messages, through the official SDK.

The SDK's own retries are off: `chain` decides. Thinking comes with a signature that has to be sent
back unchanged with the tool results, or the API refuses the conversation; it travels as
`ReasoningSignature` and `ReasoningPart.signature`. Prompt caching is always on: breakpoints stand on
the last tool, the part of the system prompt that stays the same, and the second-to-last message.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Literal

import httpx2

from agentops.api.runs import Usage
from agentops.runtime.messages import Message, ReasoningPart, TextPart, ToolCallPart, ToolResultPart
from agentops.runtime.providers.base import (
    CallOptions,
    Delta,
    Finish,
    FinishReason,
    ProviderWarning,
    ReasoningDelta,
    ReasoningSignature,
    Source,
    SystemPrompt,
    TextDelta,
    ToolInputDelta,
    ToolInputStart,
    ToolSpec,
)
from agentops.runtime.providers.calls import VendorCalls
from agentops.runtime.providers.faults import count, tool_input, tool_name
from agentops.runtime.providers.secrets import Secrets
from agentops.telemetry import tracing
from agentops.values.clock import Clock

if TYPE_CHECKING:
    import anthropic

VENDOR_URL = "https://api.anthropic.com"
MAX_OUTPUT_TOKENS = 8192
"""The API wants a limit with every call; this one holds when the agent sets none."""

LEFT_OUT = "[The beginning of the conversation is left out.]"

_CACHED: Mapping[str, str] = {"type": "ephemeral"}
_FINISH: Mapping[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool-calls",
    "refusal": "content-filter",
}
_STATUS_OF_TYPE: Mapping[str, int] = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}


class AnthropicAdapter:
    """One account at Anthropic or at something that speaks its protocol.

    Without `base_url` the key goes out as the SDK sends it (`Authorization: Bearer`). With one it goes
    as `x-api-key`, which is what compatible servers and proxies look for. An `Authorization` or
    `x-api-key` among `headers` replaces both. An empty `api_key` leaves authentication to
    `http_client`, which the adapter owns and closes. `defaults` is the `anthropic` block of
    callDefaults: `effort`, `thinkingBudgetTokens`, `disableParallelToolUse`.
    """

    kind = "anthropic"

    def __init__(
        self,
        provider: str,
        *,
        base_url: str | None,
        api_key: str,
        key_source: str,
        secrets: Secrets,
        http_client: httpx2.AsyncClient,
        clock: Clock,
        headers: Mapping[str, str] | None = None,
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        import anthropic

        self.provider = provider
        # The SDK adds /v1 itself; people copy base URLs with it.
        root = (base_url or VENDOR_URL).rstrip("/").removesuffix("/v1")
        self._calls = VendorCalls(
            provider,
            root,
            key_source,
            anthropic,
            clock,
            "the format of Anthropic's messages",
            "check baseURL and type",
            _status_of,
            secrets,
        )
        self._defaults = dict(defaults or {})
        default_headers: dict[str, Any] = dict(headers or {})
        given = {name.lower() for name in default_headers}
        if "x-api-key" in given and "authorization" not in given:
            default_headers["Authorization"] = anthropic.omit
        elif api_key and base_url and "authorization" not in given:
            default_headers |= {"X-Api-Key": api_key, "Authorization": anthropic.omit}
        self._client: anthropic.AsyncAnthropic = anthropic.AsyncAnthropic(
            api_key=api_key or None,
            # A placeholder that the client's auth replaces. With neither, the SDK would read its environment.
            auth_token=None if api_key else "-",
            base_url=root,
            default_headers=default_headers,
            max_retries=0,
            timeout=http_client.timeout,
            http_client=http_client,
        )

    async def aclose(self) -> None:
        await self._client.close()

    async def stream(
        self,
        model: str,
        system: SystemPrompt,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec],
        options: CallOptions,
    ) -> AsyncGenerator[Delta, None]:
        """See `Adapter.stream`."""
        request, warnings = build_request(model, system, messages, tools, options, self._defaults)
        # Once a turn.
        waiting: list[Delta] = [ProviderWarning(f"provider {self.provider}: {text}") for text in warnings]
        if messages and messages[-1].role == "tool":
            waiting = []
        headers: dict[str, str] = {}
        tracing.inject(headers)
        # The SDK compares each message with its types, a third of a millisecond of the event loop's time apiece; what
        # stands in extra_body replaces it as it is.
        body = {**request.pop("extra_body", {}), "messages": request.pop("messages")}
        deltas = self._calls.stream(
            model,
            lambda: self._client.messages.create(
                **request, messages=[], stream=True, extra_headers=headers, extra_body=body
            ),
            _StreamReader(),
            waiting,
        )
        async with aclosing(deltas):
            async for delta in deltas:
                yield delta


def _status_of(error: Any) -> int | None:
    """The HTTP status; an error in the middle of a stream has 200, and its type says what it is."""
    status = getattr(error, "status_code", None)
    if isinstance(status, int) and status >= 300:
        return status
    return _STATUS_OF_TYPE.get(getattr(error, "type", None) or "")


class _StreamReader:
    """Raw events in, deltas out."""

    def __init__(self) -> None:
        self._calls: dict[int, str] = {}
        self._sources = 0
        self._reason: FinishReason | None = None
        self._counts: dict[str, int] = {}
        self._response_id = ""

    def feed(self, event: Any) -> list[Delta]:
        match event.type:
            case "message_start":
                self._response_id = event.message.id or ""
                self._count(event.message.usage)
            case "content_block_start":
                return self._start(event.index, event.content_block)
            case "content_block_delta":
                return self._delta(event.index, event.delta)
            case "message_delta":
                if event.delta.stop_reason:
                    self._reason = _FINISH.get(event.delta.stop_reason, "other")
                self._count(event.usage)
        return []

    def _start(self, index: int, block: Any) -> list[Delta]:
        match block.type:
            case "text" if block.text:
                return [TextDelta(block.text)]
            case "thinking" if block.thinking:
                return [ReasoningDelta(block.thinking)]
            case "redacted_thinking":
                return [ReasoningSignature(block.data, redacted=True)]
            case "tool_use":
                self._calls[index] = block.id
                return [ToolInputStart(block.id, block.name)]
        return []

    def _delta(self, index: int, delta: Any) -> list[Delta]:
        match delta.type:
            case "text_delta" if delta.text:
                return [TextDelta(delta.text)]
            case "thinking_delta" if delta.thinking:
                return [ReasoningDelta(delta.thinking)]
            case "signature_delta" if delta.signature:
                return [ReasoningSignature(delta.signature)]
            case "input_json_delta" if delta.partial_json and index in self._calls:
                return [ToolInputDelta(self._calls[index], delta.partial_json)]
            case "citations_delta":
                return self._source(delta.citation)
        return []

    def _source(self, citation: Any) -> list[Delta]:
        self._sources += 1
        url = getattr(citation, "url", None) or getattr(citation, "source", None) or ""
        title = getattr(citation, "title", None) or getattr(citation, "document_title", None) or ""
        kind: Literal["url", "document"] = "url" if getattr(citation, "url", None) else "document"
        return [Source(f"source{self._sources}", kind, url, title)]

    def _count(self, usage: Any) -> None:
        """Numbers are totals so far; a later event may leave out what an earlier one said."""
        for name in ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"):
            value = getattr(usage, name, None)
            if value is not None:
                self._counts[name] = count(value)
        thinking = getattr(getattr(usage, "output_tokens_details", None), "thinking_tokens", None)
        if thinking is not None:
            self._counts["thinking"] = count(thinking)

    @property
    def finished(self) -> bool:
        """The model said why it stopped."""
        return self._reason is not None

    def notes(self) -> Sequence[Delta]:
        return ()

    def finish(self) -> Finish:
        total = self._counts.get
        read, written = total("cache_read_input_tokens", 0), total("cache_creation_input_tokens", 0)
        sent, received = total("input_tokens", 0) + read + written, total("output_tokens", 0)
        usage = Usage(
            input_tokens=sent,
            output_tokens=received,
            total_tokens=sent + received,
            reasoning_tokens=total("thinking", 0),
            cache_creation_tokens=written,
            cache_read_tokens=read,
        )
        return Finish(self._reason or "unknown", usage, self._response_id)


def build_request(
    model: str,
    system: SystemPrompt,
    messages: Sequence[Message],
    tools: Sequence[ToolSpec],
    options: CallOptions,
    defaults: Mapping[str, Any],
) -> tuple[dict[str, Any], list[str]]:
    """The arguments of `messages.create` without `stream`, and what had to be changed or left out."""
    warnings: list[str] = []
    prompts = [system.fixed, system.turn, *(message.text for message in messages if message.role == "system")]
    request: dict[str, Any] = {
        "model": model,
        "messages": _messages(messages),
        "max_tokens": options.max_output_tokens or MAX_OUTPUT_TOKENS,
    }
    if any(prompts):
        request["system"] = [{"type": "text", "text": text} for text in prompts if text]
        request["system"][0]["cache_control"] = dict(_CACHED)
    if tools:
        request["tools"] = [
            {"name": tool.name, "description": tool.description, "input_schema": {"type": "object", **tool.schema}}
            for tool in tools
        ]
        request["tools"][-1]["cache_control"] = dict(_CACHED)
        if defaults.get("disableParallelToolUse"):
            request["tool_choice"] = {"type": "auto", "disable_parallel_tool_use": True}
    if defaults.get("effort"):
        request["output_config"] = {"effort": defaults["effort"]}
    temperature = options.temperature
    thinking = None if _taken_over(messages) else defaults.get("thinkingBudgetTokens")
    if thinking:
        request["thinking"] = {"type": "enabled", "budget_tokens": thinking}
        if request["max_tokens"] <= thinking:
            if options.max_output_tokens is not None:
                warnings.append(
                    f"the output limit of {options.max_output_tokens} tokens leaves no answer beside "
                    f"thinkingBudgetTokens {thinking}; {thinking + options.max_output_tokens} is used"
                )
            request["max_tokens"] += thinking
        if temperature not in (None, 1):
            warnings.append(f"temperature {temperature} is left out: the API refuses it together with thinking")
            temperature = None
    if temperature is not None and temperature > 1:
        warnings.append(f"temperature {temperature} is above the API's highest, 1; 1 is used")
        temperature = 1.0
    if temperature is not None:  # not among the SDK's arguments any more
        request["extra_body"] = {"temperature": temperature}
    return request, warnings


def _taken_over(messages: Sequence[Message]) -> bool:
    """A turn that another vendor's model began with tool calls: it holds no signed thought, and the API
    refuses to go on thinking in the middle of such a turn."""
    if not messages or messages[-1].role != "tool":
        return False
    asked = max((index for index, message in enumerate(messages) if message.role == "user"), default=-1)
    first = next(message for message in (*messages[asked + 1 :], messages[-1]) if message.role != "system")
    return not any(isinstance(part, ReasoningPart) and part.signature for part in first.content)


def _messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """User and assistant in turns: tool results are the user's, neighbours of one role become one message."""
    wire: list[dict[str, Any]] = []
    for message in messages:
        blocks = [block for part in message.content if (block := _block(part)) is not None]
        if message.role == "system" or not blocks:
            continue
        role = "assistant" if message.role == "assistant" else "user"
        if not wire and role == "assistant":  # trimming left the middle of a turn; the API wants the user first
            wire.append({"role": "user", "content": [{"type": "text", "text": LEFT_OUT}]})
        if wire and wire[-1]["role"] == role:
            wire[-1]["content"] += blocks
        else:
            wire.append({"role": role, "content": blocks})
    if len(wire) > 1:
        # A thinking block takes no breakpoint.
        cacheable = [block for block in wire[-2]["content"] if "thinking" not in block["type"]]
        if cacheable:
            cacheable[-1]["cache_control"] = dict(_CACHED)
    return wire


def _block(part: TextPart | ReasoningPart | ToolCallPart | ToolResultPart) -> dict[str, Any] | None:
    match part:
        case TextPart(text):
            return {"type": "text", "text": text} if text.strip() else None
        case ReasoningPart(text, signature, redacted):
            if not signature:  # another vendor's thoughts
                return None
            if redacted:
                return {"type": "redacted_thinking", "data": signature}
            return {"type": "thinking", "thinking": text, "signature": signature}
        case ToolCallPart(call_id, name, arguments):
            return {"type": "tool_use", "id": _id(call_id), "name": tool_name(name), "input": tool_input(arguments)}
    block: dict[str, Any] = {"type": "tool_result", "tool_use_id": _id(part.tool_call_id), "content": part.text}
    return block | {"is_error": True} if part.is_error else block


def _id(call_id: str) -> str:
    """Ids of other vendors hold characters this API refuses."""
    return re.sub(r"[^a-zA-Z0-9_-]", "_", call_id)
