"""OpenAI's chat completions: requests in, whole or streamed answers out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from agentops.model.backend import (
    CallArguments,
    CallStart,
    ChatMessage,
    ChatRequest,
    Finish,
    Part,
    Reasoning,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    Usage,
)
from agentops.model.errors import BadRequest

_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
}


def parse(number: int, body: Mapping[str, Any]) -> ChatRequest:
    """The request in `body`. Raises BadRequest naming the field."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadRequest("messages must be a list with at least one message")
    limit = body.get("max_completion_tokens", body.get("max_tokens"))
    stop = body.get("stop") or []
    options = body.get("stream_options") or {}
    return ChatRequest(
        number=number,
        model=text_of(body, "model", ""),
        messages=tuple(_message(f"messages[{index}]", message) for index, message in enumerate(messages)),
        tools=tuple(_tool(f"tools[{index}]", tool) for index, tool in enumerate(body.get("tools") or [])),
        tool_choice=_tool_choice(body.get("tool_choice")),
        max_tokens=count_of(limit, "max_tokens"),
        temperature=number_of(body.get("temperature"), "temperature"),
        stop=(stop,) if isinstance(stop, str) else tuple(str(word) for word in stop),
        stream=bool(body.get("stream")),
        include_usage=isinstance(options, dict) and bool(options.get("include_usage")),
        raw=body,
    )


def error_body(status: int, message: str) -> dict[str, Any]:
    """An error as OpenAI says it."""
    return {
        "error": {
            "message": message,
            "type": _ERROR_TYPES.get(status, "server_error"),
            "param": None,
            "code": _code(status, message),
        }
    }


def whole(request: ChatRequest, created: int, parts: Sequence[Part]) -> dict[str, Any]:
    """The answer of a request without `stream`."""
    text = "".join(part.text for part in parts if isinstance(part, Text))
    reasoning = "".join(part.text for part in parts if isinstance(part, Reasoning))
    calls: list[dict[str, Any]] = []
    finish = Finish("stop", Usage())
    for part in parts:
        match part:
            case CallStart(id, name):
                calls.append({"id": id, "type": "function", "function": {"name": name, "arguments": ""}})
            case CallArguments(more):
                calls[-1]["function"]["arguments"] += more
            case Finish():
                finish = part
    message: dict[str, Any] = {"role": "assistant", "content": text or (None if calls else "")}
    if reasoning:
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = calls
    return {
        "id": f"chatcmpl-{request.number}",
        "object": "chat.completion",
        "created": created,
        "model": request.model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish.reason}],
        "usage": _usage(finish.usage),
    }


class Stream:
    """Parts to server-sent events; one instance per answer."""

    def __init__(self, request: ChatRequest, created: int) -> None:
        self._request = request
        self._created = created
        self._calls = -1
        self._usage = Usage()

    def begin(self) -> bytes:
        return self._delta({"role": "assistant", "content": ""})

    def part(self, part: Part) -> bytes:
        match part:
            case Text(text):
                return self._delta({"content": text})
            case Reasoning(text):
                return self._delta({"reasoning_content": text})
            case CallStart(id, name):
                self._calls += 1
                function = {"name": name, "arguments": ""}
                call = {"index": self._calls, "id": id, "type": "function", "function": function}
                return self._delta({"tool_calls": [call]})
            case CallArguments(text):
                return self._delta({"tool_calls": [{"index": self._calls, "function": {"arguments": text}}]})
            case Finish(reason, usage):
                self._usage = usage
                return self._delta({}, reason)

    def end(self) -> bytes:
        tail = b"data: [DONE]\n\n"
        if not self._request.include_usage:
            return tail
        return _event(self._chunk([]) | {"usage": _usage(self._usage)}) + tail

    def failed(self, message: str, body: Any) -> bytes:
        """An error in the middle of the stream."""
        return _event(body if body is not None else error_body(500, message))

    def _delta(self, delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return _event(self._chunk([choice]))

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        chunk: dict[str, Any] = {
            "id": f"chatcmpl-{self._request.number}",
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": self._request.model,
            "choices": choices,
        }
        if self._request.include_usage:
            chunk["usage"] = None
        return chunk


def text_of(body: Mapping[str, Any], name: str, default: str) -> str:
    value = body.get(name, default)
    if not isinstance(value, str):
        raise BadRequest(f"{name} must be a string")
    return value


def count_of(value: Any, name: str) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise BadRequest(f"{name} must be a whole number above 0")
    return value


def number_of(value: Any, name: str) -> float | None:
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise BadRequest(f"{name} must be a number")
    return float(value)


def _event(data: Any) -> bytes:
    return b"data: " + (data.encode() if isinstance(data, str) else orjson.dumps(data)) + b"\n\n"


def _code(status: int, message: str) -> str | None:
    if status == 400 and "context" in message:
        return "context_length_exceeded"
    return {401: "invalid_api_key", 404: "not_found", 429: "rate_limit_exceeded"}.get(status)


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def _message(path: str, data: Any) -> ChatMessage:
    if not isinstance(data, dict):
        raise BadRequest(f"{path} must be an object")
    role = data.get("role")
    if role == "developer":
        role = "system"
    if role not in ("system", "user", "assistant", "tool"):
        raise BadRequest(f"{path}.role must be system, user, assistant or tool, not {role!r:.40}")
    calls = data.get("tool_calls") or []
    if not isinstance(calls, list):
        raise BadRequest(f"{path}.tool_calls must be a list")
    return ChatMessage(
        role=role,
        text=_content(f"{path}.content", data.get("content")),
        tool_calls=tuple(_call(f"{path}.tool_calls[{index}]", call) for index, call in enumerate(calls)),
        tool_call_id=str(data.get("tool_call_id") or ""),
    )


def _content(path: str, content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise BadRequest(f"{path} must be a string or a list of parts")
    return "".join(str(part.get("text") or "") for part in content)


def _call(path: str, data: Any) -> ToolCall:
    function = data.get("function") if isinstance(data, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BadRequest(f"{path}.function.name is required")
    return ToolCall(str(data.get("id") or ""), function["name"], str(function.get("arguments") or ""))


def _tool(path: str, data: Any) -> Tool:
    function = data.get("function") if isinstance(data, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BadRequest(f"{path}.function.name is required")
    parameters = function.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise BadRequest(f"{path}.function.parameters must be a JSON schema")
    return Tool(name=function["name"], description=str(function.get("description") or ""), parameters=parameters)


def _tool_choice(data: Any) -> ToolChoice:
    if data is None:
        return ToolChoice()
    if data in ("auto", "none", "required"):
        return ToolChoice(mode=data)
    function = data.get("function") if isinstance(data, dict) else None
    if isinstance(function, dict) and isinstance(function.get("name"), str):
        return ToolChoice(mode="required", name=function["name"])
    raise BadRequest("tool_choice must be auto, none, required or a function")
