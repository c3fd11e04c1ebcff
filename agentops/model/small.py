"""SmolLM2 behind the `Backend` protocol.

A model of 135 million parameters writes sentences; it cannot choose tools. So, with tools on offer:

- `/tool NAME {"json": "arguments"}` on a line of the user's last message calls that tool, as asked, without the model;
- a forced tool choice makes the model write JSON under the tool's schema, which is sent on as a tool call;
- otherwise it answers in words, and tool results are given to it as text.

A conversation longer than its context loses its oldest messages, never the system prompt or the last message.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import httpx2
import orjson
from attrs import evolve

from agentops.model.backend import (
    Answer,
    CallArguments,
    CallStart,
    ChatMessage,
    ChatRequest,
    Finish,
    Part,
    Text,
    Tool,
    Usage,
    estimate_tokens,
)
from agentops.model.engine import CONTEXT_TOKENS, Endpoint
from agentops.model.errors import Refused, StreamFailed
from agentops.model.script import cut
from agentops.net.resolve import http_client

NAME = "smollm2"
DEFAULT_MAX_TOKENS = 256
FORCED_MAX_TOKENS = 512
PROMPT_TOKENS = 2048
"""It reads about 160 tokens/s on one core, and understands no more of a longer prompt."""
DEFAULT_TEMPERATURE = 0.2
SEED = 7
REPEAT_PENALTY = 1.1
"""Keeps so small a model from saying one sentence until it runs out; JSON needs its repetitions."""
_ARGUMENT_CHUNK = 24
_CHARS_PER_TOKEN = 3
_EXPLICIT = re.compile(r"^[ \t]*/tool[ \t]+(?P<name>[\w.-]+)[ \t]*", re.MULTILINE)


class SmallModel:
    """Answers through an engine once `attach` has said where it is."""

    def __init__(self, *, context_tokens: int = CONTEXT_TOKENS) -> None:
        self._context_tokens = context_tokens
        self._client: httpx2.AsyncClient | None = None
        self._waiting_for = "loading"

    @property
    def model_names(self) -> tuple[str, ...]:
        return (NAME,)

    def not_ready(self) -> str | None:
        return self._waiting_for if self._client is None else None

    def waiting_for(self, what: str) -> None:
        """Say what `not_ready` should say."""
        self._waiting_for = what

    def attach(self, endpoint: Endpoint) -> httpx2.AsyncClient:
        """Start answering. The caller closes the client that comes back."""
        self._client = http_client(
            base_url=endpoint.url,
            headers={"authorization": f"Bearer {endpoint.key}"},
            timeout=httpx2.Timeout(300.0, connect=5.0),
            trust_env=False,
        )
        return self._client

    def answer(self, request: ChatRequest) -> Answer:
        if request.tool_choice.mode != "none" and request.step == 0 and not request.last_tool_result:
            explicit = explicit_calls(request.last_user, request.tools)
            if isinstance(explicit, str):
                return Answer("explicit tool", _say(explicit, request))
            if explicit:
                return Answer("explicit tool", _call(explicit, request))
        if request.tool_choice.mode == "required" and request.tools:
            return Answer("forced tool", self._forced(request))
        return Answer(NAME, self._words(request))

    async def _words(self, request: ChatRequest) -> AsyncIterator[Part]:
        async for part in self._generate(request, request.max_tokens or DEFAULT_MAX_TOKENS, None):
            yield part

    async def _forced(self, request: ChatRequest) -> AsyncIterator[Part]:
        tools = [tool for tool in request.tools if request.tool_choice.name in (None, tool.name)]
        if not tools:
            raise Refused(400, f"tool_choice names {request.tool_choice.name!r}, which is not among the tools")
        limit = max(request.max_tokens or 0, FORCED_MAX_TOKENS)
        text, finish = "", Finish("stop", Usage())
        asked = evolve(request, messages=(*request.messages, ChatMessage(role="system", text=call_hint(tools))))
        async for part in self._generate(asked, limit, call_schema(tools)):
            if isinstance(part, Text):
                text += part.text
            elif isinstance(part, Finish):
                finish = part
        try:
            call = orjson.loads(text)
            name, arguments = call["name"], orjson.dumps(call["arguments"]).decode()
        except (orjson.JSONDecodeError, KeyError, TypeError):
            # Cut off at the limit; what there is says more than an error would.
            yield Text(text)
            yield Finish("length", finish.usage)
            return
        for made in _call_parts([(name, arguments)], request):
            yield made
        yield Finish("tool_calls", finish.usage)

    async def _generate(
        self, request: ChatRequest, max_tokens: int, schema: Mapping[str, Any] | None
    ) -> AsyncIterator[Part]:
        assert self._client is not None
        max_tokens = min(max_tokens, self._context_tokens // 2)
        room_tokens = min(self._context_tokens - max_tokens, PROMPT_TOKENS)
        payload: dict[str, Any] = {
            "model": NAME,
            "messages": prompt(request, room_tokens),
            "max_tokens": max_tokens,
            "temperature": DEFAULT_TEMPERATURE if request.temperature is None else request.temperature,
            "seed": SEED,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if request.stop:
            payload["stop"] = list(request.stop)
        if schema is None:
            payload["repeat_penalty"] = REPEAT_PENALTY
        else:
            payload["temperature"] = 0.0
            payload["response_format"] = {"type": "json_schema", "json_schema": {"name": "call", "schema": schema}}
        reason, usage, started = "stop", Usage(), False
        try:
            async with self._client.stream("POST", "/v1/chat/completions", json=payload) as response:
                if response.status_code != 200:
                    raise Refused(response.status_code, _engine_error(await response.aread()))
                async for line in response.aiter_lines():
                    if not line.startswith("data: ") or line == "data: [DONE]":
                        continue
                    chunk = orjson.loads(line[6:])
                    if "error" in chunk:
                        raise StreamFailed(str(chunk["error"].get("message") or "the engine failed"))
                    for choice in chunk.get("choices") or []:
                        text = choice["delta"].get("content")
                        if text:
                            started = True
                            yield Text(text)
                        reason = choice.get("finish_reason") or reason
                    if chunk.get("usage"):
                        usage = _usage(chunk["usage"])
        except httpx2.TransportError as error:
            message = f"the model engine does not answer: {type(error).__name__}"
            raise StreamFailed(message) if started else Refused(503, message) from error
        yield Finish(reason, usage)


def explicit_calls(text: str, tools: Sequence[Tool]) -> list[tuple[str, str]] | str:
    """The tool calls that `text` asks for by `/tool NAME {…}`, as (name, JSON arguments).

    A sentence instead, when a call cannot be made as written; an empty list when there is none.
    """
    names = {tool.name for tool in tools}
    calls: list[tuple[str, str]] = []
    for match in _EXPLICIT.finditer(text):
        name, rest = match["name"], text[match.end() :]
        if name not in names:
            offered = ", ".join(sorted(names)) or "none"
            return f"There is no tool named {name}. Tools on offer: {offered}."
        arguments = _leading_object(rest)
        if arguments is None:
            return f'The arguments of /tool {name} are not a JSON object. Write /tool {name} {{"key": "value"}}.'
        calls.append((name, arguments))
    return calls


def _leading_object(text: str) -> str | None:
    """The JSON object at the start of `text`; `{}` when the line has nothing; None when it is something else."""
    if not text.partition("\n")[0].strip():
        return "{}"
    try:
        value, _ = json.JSONDecoder().raw_decode(text)
    except ValueError:
        return None
    return orjson.dumps(value).decode() if isinstance(value, dict) else None


def call_schema(tools: Sequence[Tool]) -> dict[str, Any]:
    """JSON Schema of one call of one of `tools`."""
    options = [
        {
            "type": "object",
            "properties": {
                "name": {"const": tool.name},
                "arguments": tool.parameters or {"type": "object", "properties": {}},
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for tool in tools
    ]
    return options[0] if len(options) == 1 else {"oneOf": options}


def call_hint(tools: Sequence[Tool]) -> str:
    """What a forced call adds to the system prompt."""
    lines = [f"- {tool.name}: {tool.description or 'no description'}" for tool in tools]
    return "\n".join(["Answer with one JSON object that calls one of these tools:", *lines])


def prompt(request: ChatRequest, room_tokens: int) -> list[dict[str, str]]:
    """The conversation as the model's chat template knows it, the oldest left out when it is too long."""
    messages = [_plain(message) for message in request.messages]
    system = [message for message in messages if message.role == "system"]
    talk = [message for message in messages if message.role != "system"]
    budget = room_tokens * _CHARS_PER_TOKEN
    last = talk[-1:] if talk else system[-1:]
    if last and len(last[0].text) > budget:
        last = [evolve(last[0], text=last[0].text[-budget:])]
    budget -= sum(len(message.text) for message in last)
    kept_system = "\n\n".join(message.text for message in system)[: max(budget, 0)] if talk else ""
    budget -= len(kept_system)
    kept: list[ChatMessage] = []
    for message in reversed(talk[:-1]):
        budget -= len(message.text) + 16
        if budget < 0:
            break
        kept.append(message)
    head = [ChatMessage(role="system", text=kept_system)] if kept_system else []
    return [{"role": message.role, "content": message.text} for message in [*head, *reversed(kept), *last]]


def _plain(message: ChatMessage) -> ChatMessage:
    """Tool calls and results as words: the model's template has no place for them."""
    if message.role == "tool":
        return ChatMessage(role="user", text=f"The tool returned:\n{message.text}\nAnswer with it.")
    called = "\n".join(f"I call {call.name} with {call.arguments}" for call in message.tool_calls)
    text = "\n".join(part for part in (message.text, called) if part)
    return ChatMessage(role=message.role, text=text)


async def _say(text: str, request: ChatRequest) -> AsyncIterator[Part]:
    yield Text(text)
    yield Finish("stop", _estimated(request, text))


async def _call(calls: Sequence[tuple[str, str]], request: ChatRequest) -> AsyncIterator[Part]:
    for part in _call_parts(calls, request):
        yield part
    yield Finish("tool_calls", _estimated(request, "".join(arguments for _, arguments in calls)))


def _call_parts(calls: Sequence[tuple[str, str]], request: ChatRequest) -> list[CallStart | CallArguments]:
    parts: list[CallStart | CallArguments] = []
    for index, (name, arguments) in enumerate(calls):
        parts.append(CallStart(f"call_{request.number}_{index}", name))
        parts += map(CallArguments, cut(arguments, _ARGUMENT_CHUNK))
    return parts


def _estimated(request: ChatRequest, said: str) -> Usage:
    read = "".join(message.text for message in request.messages)
    return Usage(input_tokens=estimate_tokens(read), output_tokens=estimate_tokens(said))


def _usage(data: Mapping[str, Any]) -> Usage:
    details = data.get("prompt_tokens_details") or {}
    return Usage(
        input_tokens=int(data.get("prompt_tokens") or 0),
        output_tokens=int(data.get("completion_tokens") or 0),
        cached_tokens=int(details.get("cached_tokens") or 0),
    )


def _engine_error(body: bytes) -> str:
    try:
        return str(orjson.loads(body)["error"]["message"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return body.decode("utf-8", "replace")[:300] or "the model engine refused"
