"""Chat completions in the OpenAI shape, through the official SDK.

Serves `openaicompat` (vLLM, Ollama, llama.cpp, our own `agentops model`), `openai` and `openrouter`.
The SDK's own retries are off: `chain` decides, because it knows whether a byte has been shown.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import httpx2
import orjson

from agentops.api.runs import Usage
from agentops.runtime.messages import Message, TextPart, ToolCallPart, ToolResultPart
from agentops.runtime.providers.base import (
    CallOptions,
    Delta,
    Finish,
    FinishReason,
    ProviderWarning,
    ReasoningDelta,
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
    import openai

VENDOR_URL = "https://api.openai.com/v1"

_FINISH: Mapping[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "content_filter": "content-filter",
    "tool_calls": "tool-calls",
    "function_call": "tool-calls",
}


class OpenAICompatAdapter:
    """One endpoint that speaks chat completions.

    `key_source` is what an authentication error tells the user to look at: the name of the
    environment variable the key came from. `http_client` is owned and closed by the adapter.
    """

    def __init__(
        self,
        provider: str,
        *,
        base_url: str | None,
        api_key: str,
        key_source: str,
        secrets: Secrets,
        http_client: httpx2.AsyncClient,
        kind: str = "openaicompat",
        organization: str | None = None,
        project: str | None = None,
        headers: Mapping[str, str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        clock: Clock,
        new_id: Callable[[], str],
    ) -> None:
        import openai

        self.provider = provider
        self.kind = kind
        self._openai = openai
        self._calls = VendorCalls(
            provider,
            base_url or VENDOR_URL,
            key_source,
            openai,
            clock,
            "the chat completions format",
            "check baseURL (it usually ends in /v1)",
            _status_of,
            secrets,
        )
        self._extra = dict(extra_body or {})
        self._new_id = new_id
        default_headers = dict(headers or {})
        # The SDK refuses to send without a key unless the header is left out on purpose, call by call.
        self._anonymous = not api_key and not any(name.lower() == "authorization" for name in default_headers)
        self._client: openai.AsyncOpenAI = openai.AsyncOpenAI(
            api_key=api_key,
            base_url=base_url or VENDOR_URL,
            organization=organization,
            project=project,
            default_headers=default_headers,
            max_retries=0,
            http_client=http_client,
            _enforce_credentials=False,
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
        request = self._request(model, system, messages, tools, options)
        headers: dict[str, Any] = {}
        tracing.inject(headers)
        if self._anonymous:
            headers["Authorization"] = self._openai.Omit()
        reader = _StreamReader(self._new_id, self._tier_warning)
        completions = self._client.chat.completions
        deltas = self._calls.stream(
            model,
            lambda: completions.create(**request, extra_headers=headers),
            reader,
            self._warnings(messages, options),
        )
        async with aclosing(deltas):
            async for delta in deltas:
                yield delta

    def _request(
        self,
        model: str,
        system: SystemPrompt,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec],
        options: CallOptions,
    ) -> dict[str, Any]:
        # One system message: some servers' chat templates refuse a second.
        prompts = [system.text, *(message.text for message in messages if message.role == "system")]
        wire = [{"role": "system", "content": "\n\n".join(filter(None, prompts))}] if any(prompts) else []
        for message in messages:
            if message.role != "system":
                wire.extend(_message_to_wire(message))
        # The SDK compares each message with its types, a third of a millisecond of the event loop's time apiece; what
        # stands in extra_body replaces it as it is.
        body: dict[str, Any] = {"messages": wire, **self._extra}
        request: dict[str, Any] = {
            "model": model,
            "messages": [],
            "stream": True,
            "stream_options": {"include_usage": True},
            "extra_body": body,
        }
        if tools:
            body["tools"] = [
                {
                    "type": "function",
                    "function": {"name": tool.name, "description": tool.description, "parameters": dict(tool.schema)},
                }
                for tool in tools
            ]
        if options.temperature is not None and not self._refuses_temperature(options):
            request["temperature"] = options.temperature
        if options.max_output_tokens is not None:
            # api.openai.com refuses max_tokens for its newer models; compatible servers know only that one.
            name = "max_completion_tokens" if self.kind == "openai" else "max_tokens"
            request[name] = options.max_output_tokens
        return request

    def _refuses_temperature(self, options: CallOptions) -> bool:
        """api.openai.com answers 400 to a temperature beside reasoning; compatible servers take both."""
        reasons = self._extra.get("reasoning_effort") not in (None, "none")
        return self.kind == "openai" and reasons and options.temperature not in (None, 1)

    def _warnings(self, messages: Sequence[Message], options: CallOptions) -> list[ProviderWarning]:
        if messages and messages[-1].role == "tool":  # said when the turn began
            return []
        if not self._refuses_temperature(options):
            return []
        text = f"temperature {options.temperature} is left out: the API refuses it together with reasoningEffort"
        return [ProviderWarning(f"provider {self.provider}: {text}")]

    def _tier_warning(self, served: str | None) -> list[ProviderWarning]:
        wanted = self._extra.get("service_tier")
        if wanted in (None, "auto") or served in (None, wanted):
            return []
        return [ProviderWarning(f"provider {self.provider}: served in tier {served}, not in {wanted} (serviceTier)")]


class _StreamReader:
    """Chunks in, deltas out. Keeps which tool call an index belongs to, because only the first
    chunk of a call carries its id, and some servers send no id at all or restart the index."""

    def __init__(self, new_id: Callable[[], str], tier_warning: Callable[[str | None], list[ProviderWarning]]) -> None:
        self._new_id = new_id
        self._tier_warning = tier_warning
        self._calls: dict[int, str] = {}
        self._seen: set[str] = set()
        self._reason: FinishReason | None = None
        self._usage = Usage()
        self._response_id = ""
        self._sources = 0
        self._service_tier: str | None = None

    def feed(self, chunk: Any) -> list[Delta]:
        self._response_id = str(getattr(chunk, "id", None) or self._response_id)
        self._service_tier = getattr(chunk, "service_tier", None) or self._service_tier
        if getattr(chunk, "usage", None) is not None:
            self._usage = _usage(chunk.usage)
        deltas: list[Delta] = []
        for choice in (getattr(chunk, "choices", None) or [])[:1]:
            delta = choice.delta
            if delta is not None:
                reasoning = getattr(delta, "reasoning_content", None) or getattr(delta, "reasoning", None)
                if isinstance(reasoning, str) and reasoning:
                    deltas.append(ReasoningDelta(reasoning))
                if delta.content:
                    deltas.extend(_content(delta.content))
                for note in getattr(delta, "annotations", None) or ():
                    deltas.extend(self._source(note))
                for call in delta.tool_calls or ():
                    deltas.extend(self._tool(call))
            if choice.finish_reason:
                self._reason = _FINISH.get(choice.finish_reason, "other")
        return deltas

    def _source(self, note: Any) -> list[Delta]:
        """Annotations are not in the SDK's types: they arrive as the JSON they are."""
        cited = note.get("url_citation") if isinstance(note, dict) else None
        if not isinstance(cited, dict) or not cited.get("url"):
            return []
        self._sources += 1
        return [Source(f"source{self._sources}", "url", str(cited["url"]), str(cited.get("title") or ""))]

    def _tool(self, call: Any) -> list[Delta]:
        deltas: list[Delta] = []
        name = call.function.name if call.function else None
        call_id = self._calls.get(call.index)
        if call_id is None or (call.id and call.id != call_id and call.id not in self._seen and name):
            call_id = str(call.id) if call.id and call.id not in self._seen else self._new_id()
            self._calls[call.index] = call_id
            self._seen.add(call_id)
            deltas.append(ToolInputStart(call_id, name or ""))
        if call.function and (arguments := call.function.arguments):
            if isinstance(arguments, dict):  # some servers send the object itself
                arguments = orjson.dumps(arguments).decode()
            deltas.append(ToolInputDelta(call_id, arguments))
        return deltas

    @property
    def finished(self) -> bool:
        """The model said why it stopped."""
        return self._reason is not None

    def notes(self) -> Sequence[Delta]:
        return self._tier_warning(self._service_tier)

    def finish(self) -> Finish:
        reason: FinishReason = self._reason or "unknown"
        if self._calls and reason in ("stop", "unknown"):  # servers that say stop although they called a tool
            reason = "tool-calls"
        return Finish(reason, self._usage, self._response_id)


def _content(content: Any) -> list[Delta]:
    """The answer's text, which some servers send as a list of parts, thoughts among them."""
    if not isinstance(content, list):
        return [TextDelta(content)]
    deltas: list[Delta] = []
    for part in content:
        if part["type"] == "text":
            deltas.append(TextDelta(part["text"]))
        elif part["type"] == "thinking":
            deltas += [ReasoningDelta(thought["text"]) for thought in part["thinking"]]
    return deltas


def _message_to_wire(message: Message) -> list[dict[str, Any]]:
    if message.role == "tool":
        return [
            {"role": "tool", "tool_call_id": part.tool_call_id, "content": part.text}
            for part in message.content
            if isinstance(part, ToolResultPart)
        ]
    text = "".join(part.text for part in message.content if isinstance(part, TextPart))
    wire: dict[str, Any] = {"role": message.role, "content": text}
    calls = [part for part in message.content if isinstance(part, ToolCallPart)]
    if calls:
        wire["tool_calls"] = [
            {
                "id": call.tool_call_id,
                "type": "function",
                "function": {
                    "name": tool_name(call.tool_name),
                    "arguments": orjson.dumps(tool_input(call.input)).decode(),
                },
            }
            for call in calls
        ]
        wire["content"] = text or None
    return [wire]


def _usage(usage: Any) -> Usage:
    prompt_details = getattr(usage, "prompt_tokens_details", None)
    output_details = getattr(usage, "completion_tokens_details", None)
    sent, received = count(usage.prompt_tokens), count(usage.completion_tokens)
    return Usage(
        input_tokens=sent,
        output_tokens=received,
        total_tokens=sent + received,
        reasoning_tokens=count(getattr(output_details, "reasoning_tokens", None)),
        cache_creation_tokens=count(getattr(prompt_details, "cache_write_tokens", None)),
        cache_read_tokens=count(getattr(prompt_details, "cached_tokens", None)),
    )


def _status_of(error: Any) -> int | None:
    """The HTTP status, or for an error object inside the stream its `code`, which some servers make a status."""
    status = getattr(error, "status_code", None)
    if isinstance(status, int) and status >= 300:
        return status
    code = error.body.get("code") if isinstance(error.body, dict) else None
    return int(code) if isinstance(code, int | str) and str(code).isdigit() else None
