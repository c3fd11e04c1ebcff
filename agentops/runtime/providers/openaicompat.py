"""Chat completions in the OpenAI shape, through the official SDK.

Serves `openaicompat` (vLLM, Ollama, llama.cpp, our own `agentops model`), `openai` and `openrouter`.
The SDK's own retries are off: `chain` decides, because it knows whether a byte has been shown.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import httpx2
import orjson

from agentops.api.runs import Usage
from agentops.runtime.errors import ProviderAuthFault, ProviderFault, ProviderReplyFault
from agentops.runtime.messages import Message, TextPart, ToolCallPart, ToolResultPart
from agentops.runtime.providers.base import (
    CallOptions,
    Delta,
    Finish,
    FinishReason,
    ProviderWarning,
    ReasoningDelta,
    Source,
    TextDelta,
    ToolInputDelta,
    ToolInputStart,
    ToolSpec,
)
from agentops.runtime.providers.faults import RETRYABLE_STATUS, detail, kind_of, retry_after, short, tool_input
from agentops.telemetry import tracing

if TYPE_CHECKING:
    import openai

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
        http_client: httpx2.AsyncClient,
        kind: str = "openaicompat",
        organization: str | None = None,
        project: str | None = None,
        headers: Mapping[str, str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        new_id: Callable[[], str],
    ) -> None:
        import openai

        self.provider = provider
        self.kind = kind
        self._openai = openai
        self._key_source = key_source
        self._base_url = base_url or "https://api.openai.com/v1"
        self._extra = dict(extra_body or {})
        self._new_id = new_id
        default_headers = dict(headers or {})
        # The SDK refuses to send without a key unless the header is left out on purpose, call by call.
        self._anonymous = not api_key and not any(name.lower() == "authorization" for name in default_headers)
        self._client: openai.AsyncOpenAI = openai.AsyncOpenAI(
            api_key=api_key,
            base_url=self._base_url,
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
        system: str,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec],
        options: CallOptions,
    ) -> AsyncGenerator[Delta, None]:
        """See `Adapter.stream`."""
        request = self._request(model, system, messages, tools, options)
        trace_headers: dict[str, str] = {}
        tracing.inject(trace_headers)
        headers: dict[str, Any] = dict(trace_headers)
        if self._anonymous:
            headers["Authorization"] = self._openai.Omit()
        answering = False
        try:
            response = await self._client.chat.completions.create(**request, extra_headers=headers)
            answering = True
            async with response:
                reader = _StreamReader(self._new_id)
                # Warnings are never the first thing of a call that may still be retried.
                waiting: list[Delta] = [*self._warnings(messages, options)]
                async for chunk in response:
                    deltas = reader.feed(chunk)
                    if deltas and waiting:
                        deltas, waiting = [*waiting, *deltas], []
                    for delta in deltas:
                        yield delta
                if not reader.finished:  # half an answer must not pass for a whole one
                    raise self._broken(model, "the stream ended early")
                for delta in [*waiting, *self._tier_warning(reader.service_tier)]:
                    yield delta
                yield reader.finish()
        except self._openai.APIConnectionError as error:
            if isinstance(error.__cause__, ProviderFault):  # from our OAuth2, wrapped by the SDK
                raise error.__cause__ from None
            if answering:
                raise self._broken(model, short(error.__cause__ or error)) from error
            raise self._fault(error, model) from error
        except self._openai.APIError as error:
            raise self._fault(error, model) from error
        except httpx2.HTTPError as error:
            raise self._broken(model, short(error)) from error
        except orjson.JSONDecodeError as error:
            raise self._bad_reply(model, error) from error
        except ValueError as error:  # the SDK's decoder: json.JSONDecodeError is a ValueError
            raise self._bad_reply(model, error) from error

    def _broken(self, model: str, how: str) -> ProviderFault:
        return ProviderFault(
            f"provider {self.provider} ({self._base_url}): the answer of model {model} broke off: {how}",
            provider=self.provider,
            model=model,
            retryable=True,
            kind="connection_error",
        )

    def _bad_reply(self, model: str, error: Exception) -> ProviderReplyFault:
        return ProviderReplyFault(
            f"provider {self.provider}: {self._base_url} did not answer in the chat completions format "
            f"({short(error)}); check baseURL (it usually ends in /v1)",
            provider=self.provider,
            model=model,
        )

    def _request(
        self,
        model: str,
        system: str,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec],
        options: CallOptions,
    ) -> dict[str, Any]:
        wire = [{"role": "system", "content": system}] if system else []
        for message in messages:
            wire.extend(_message_to_wire(message))
        request: dict[str, Any] = {
            "model": model,
            "messages": wire,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if tools:
            request["tools"] = [
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
        if self._extra:
            request["extra_body"] = self._extra
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

    def _fault(self, error: openai.APIError, model: str) -> ProviderFault:
        """The SDK's exception as ours: one sentence naming provider, endpoint and fix."""
        where = f"provider {self.provider} ({self._base_url})"
        if isinstance(error, self._openai.APITimeoutError):
            return ProviderFault(
                f"{where}: no answer in time from model {model}",
                provider=self.provider,
                model=model,
                retryable=True,
                kind="timeout",
            )
        if isinstance(error, self._openai.APIConnectionError):
            cause = short(error.__cause__ or error)
            return ProviderFault(
                f"{where}: cannot connect: {cause}; check the provider's baseURL and that it is up",
                provider=self.provider,
                model=model,
                retryable=True,
                kind="connection_error",
            )
        if not isinstance(error, self._openai.APIStatusError):  # an error object inside the stream
            status = _status_in_body(error)
            return ProviderFault(
                f"{where}: model {model} failed: {short(error)}",
                provider=self.provider,
                model=model,
                status=status,
                retryable=status is None or status in RETRYABLE_STATUS,
                kind=kind_of(status),
            )
        status = error.status_code
        if status in (401, 403):
            return ProviderAuthFault(
                f"{where} refused the credentials (HTTP {status}): set a valid key in {self._key_source}",
                provider=self.provider,
                model=model,
                status=status,
                kind="auth_error",
            )
        hint = f"; check that model {model} exists there and baseURL is right" if status == 404 else ""
        return ProviderFault(
            f"{where}: HTTP {status} from model {model}: {detail(error.body, error.message)}{hint}",
            provider=self.provider,
            model=model,
            status=status,
            retryable=status in RETRYABLE_STATUS,
            retry_after_s=retry_after(error.response),
            kind=kind_of(status),
        )


class _StreamReader:
    """Chunks in, deltas out. Keeps which tool call an index belongs to, because only the first
    chunk of a call carries its id, and some servers send no id at all or restart the index."""

    def __init__(self, new_id: Callable[[], str]) -> None:
        self._new_id = new_id
        self._calls: dict[int, str] = {}
        self._seen: set[str] = set()
        self._reason: FinishReason | None = None
        self._usage = Usage()
        self._response_id = ""
        self._sources = 0
        self.service_tier: str | None = None

    def feed(self, chunk: Any) -> list[Delta]:
        self._response_id = getattr(chunk, "id", None) or self._response_id
        self.service_tier = getattr(chunk, "service_tier", None) or self.service_tier
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
                    deltas.append(TextDelta(delta.content))
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
            call_id = call.id if call.id and call.id not in self._seen else self._new_id()
            self._calls[call.index] = call_id
            self._seen.add(call_id)
            deltas.append(ToolInputStart(call_id, name or ""))
        if call.function and call.function.arguments:
            deltas.append(ToolInputDelta(call_id, call.function.arguments))
        return deltas

    @property
    def finished(self) -> bool:
        """The model said why it stopped."""
        return self._reason is not None

    def finish(self) -> Finish:
        reason: FinishReason = self._reason or "unknown"
        if self._calls and reason in ("stop", "unknown"):  # servers that say stop although they called a tool
            reason = "tool-calls"
        return Finish(reason, self._usage, self._response_id)


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
                "function": {"name": call.tool_name, "arguments": orjson.dumps(tool_input(call.input)).decode()},
            }
            for call in calls
        ]
        wire["content"] = text or None
    return [wire]


def _usage(usage: Any) -> Usage:
    prompt_details = getattr(usage, "prompt_tokens_details", None)
    output_details = getattr(usage, "completion_tokens_details", None)
    sent, received = usage.prompt_tokens or 0, usage.completion_tokens or 0
    return Usage(
        input_tokens=sent,
        output_tokens=received,
        total_tokens=sent + received,
        reasoning_tokens=getattr(output_details, "reasoning_tokens", None) or 0,
        cache_creation_tokens=getattr(prompt_details, "cache_write_tokens", None) or 0,
        cache_read_tokens=getattr(prompt_details, "cached_tokens", None) or 0,
    )


def _status_in_body(error: openai.APIError) -> int | None:
    body = error.body
    code = body.get("code") if isinstance(body, dict) else None
    return int(code) if isinstance(code, int | str) and str(code).isdigit() else None
