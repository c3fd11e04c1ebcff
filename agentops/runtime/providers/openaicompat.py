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
    ReasoningDelta,
    TextDelta,
    ToolInputDelta,
    ToolInputStart,
    ToolSpec,
)
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
_RETRYABLE_STATUS = frozenset({408, 409, 429, 500, 502, 503, 504, 529})


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
                async for chunk in response:
                    for delta in reader.feed(chunk):
                        yield delta
                if not reader.finished:  # half an answer must not pass for a whole one
                    raise self._broken(model, "the stream ended early")
                yield reader.finish()
        except self._openai.APIConnectionError as error:
            if isinstance(error.__cause__, ProviderFault):  # from our OAuth2, wrapped by the SDK
                raise error.__cause__ from None
            if answering:
                raise self._broken(model, _short(error.__cause__ or error)) from error
            raise self._fault(error, model) from error
        except self._openai.APIError as error:
            raise self._fault(error, model) from error
        except httpx2.HTTPError as error:
            raise self._broken(model, _short(error)) from error
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
            f"({_short(error)}); check baseURL (it usually ends in /v1)",
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
        if options.temperature is not None:
            request["temperature"] = options.temperature
        if options.max_output_tokens is not None:
            # api.openai.com refuses max_tokens for its newer models; compatible servers know only that one.
            name = "max_completion_tokens" if self.kind == "openai" else "max_tokens"
            request[name] = options.max_output_tokens
        if self._extra:
            request["extra_body"] = self._extra
        return request

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
            cause = _short(error.__cause__ or error)
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
                f"{where}: model {model} failed: {_short(error)}",
                provider=self.provider,
                model=model,
                status=status,
                retryable=status is None or status in _RETRYABLE_STATUS,
                kind=_kind(status),
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
            f"{where}: HTTP {status} from model {model}: {_detail(error)}{hint}",
            provider=self.provider,
            model=model,
            status=status,
            retryable=status in _RETRYABLE_STATUS,
            retry_after_s=_retry_after(error.response),
            kind=_kind(status),
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

    def feed(self, chunk: Any) -> list[Delta]:
        self._response_id = getattr(chunk, "id", None) or self._response_id
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
                for call in delta.tool_calls or ():
                    deltas.extend(self._tool(call))
            if choice.finish_reason:
                self._reason = _FINISH.get(choice.finish_reason, "other")
        return deltas

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
                "function": {"name": call.tool_name, "arguments": _arguments(call.input)},
            }
            for call in calls
        ]
        wire["content"] = text or None
    return [wire]


def _arguments(text: str) -> str:
    """The model's own text when it is a JSON object. Servers that parse it would refuse anything else."""
    try:
        if isinstance(orjson.loads(text), dict):
            return text
    except orjson.JSONDecodeError:
        return orjson.dumps({"malformed": text}).decode() if text.strip() else "{}"
    return orjson.dumps({"malformed": text}).decode()


def _usage(usage: Any) -> Usage:
    prompt_details = getattr(usage, "prompt_tokens_details", None)
    output_details = getattr(usage, "completion_tokens_details", None)
    sent, received = usage.prompt_tokens or 0, usage.completion_tokens or 0
    return Usage(
        input_tokens=sent,
        output_tokens=received,
        total_tokens=sent + received,
        reasoning_tokens=getattr(output_details, "reasoning_tokens", None) or 0,
        cache_read_tokens=getattr(prompt_details, "cached_tokens", None) or 0,
    )


def _kind(status: int | None) -> str:
    if status == 429:
        return "rate_limited"
    if status == 404:
        return "not_found"
    if status in (408, 504):
        return "timeout"
    if status is not None and status >= 500:
        return "server_error"
    return "bad_request" if status is not None else "error"


def _status_in_body(error: openai.APIError) -> int | None:
    body = error.body
    code = body.get("code") if isinstance(body, dict) else None
    return int(code) if isinstance(code, int | str) and str(code).isdigit() else None


def _detail(error: openai.APIStatusError) -> str:
    body = error.body
    if isinstance(body, dict):
        inner = body.get("error", body)
        message = inner.get("message") if isinstance(inner, dict) else inner
        if isinstance(message, str) and message:
            return _short(message)
    return _short(error.message)


def _retry_after(response: httpx2.Response) -> float | None:
    value = response.headers.get("retry-after")
    try:
        return max(0.0, float(value)) if value else None
    except ValueError:  # an HTTP date: the backoff is good enough
        return None


def _short(error: object) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:299] + "…"
