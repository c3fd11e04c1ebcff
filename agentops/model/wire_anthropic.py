"""Anthropic's messages: requests in, whole or streamed answers out."""

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
from agentops.model.wire_openai import count_of, number_of, text_of

_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}
_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}
_SIGNATURE = "c2NyaXB0ZWQ="
"""Thinking blocks carry a signature that clients echo; nobody here checks it."""


def parse(number: int, body: Mapping[str, Any]) -> ChatRequest:
    """The request in `body`. Raises BadRequest naming the field."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadRequest("messages must be a list with at least one message")
    found: list[ChatMessage] = []
    system = _text(body.get("system"))
    if system:
        found.append(ChatMessage(role="system", text=system))
    for index, message in enumerate(messages):
        found += _messages(f"messages[{index}]", message)
    return ChatRequest(
        number=number,
        model=text_of(body, "model", ""),
        messages=tuple(found),
        tools=tuple(_tool(f"tools[{index}]", tool) for index, tool in enumerate(body.get("tools") or [])),
        tool_choice=_tool_choice(body.get("tool_choice")),
        max_tokens=count_of(body.get("max_tokens"), "max_tokens"),
        temperature=number_of(body.get("temperature"), "temperature"),
        stop=tuple(str(word) for word in body.get("stop_sequences") or []),
        stream=bool(body.get("stream")),
        include_usage=True,
        raw=body,
    )


def error_body(status: int, message: str) -> dict[str, Any]:
    """An error as Anthropic says it."""
    return {"type": "error", "error": {"type": _ERROR_TYPES.get(status, "api_error"), "message": message}}


def whole(request: ChatRequest, created: int, parts: Sequence[Part]) -> dict[str, Any]:
    """The answer of a request without `stream`. `created` is not part of this shape."""
    blocks: list[dict[str, Any]] = []
    arguments: list[str] = []
    finish = Finish("stop", Usage())
    for part in parts:
        match part:
            case Text(text):
                if not blocks or blocks[-1]["type"] != "text":
                    blocks.append({"type": "text", "text": ""})
                blocks[-1]["text"] += text
            case Reasoning(text):
                if not blocks or blocks[-1]["type"] != "thinking":
                    blocks.append({"type": "thinking", "thinking": "", "signature": _SIGNATURE})
                blocks[-1]["thinking"] += text
            case CallStart(id, name):
                blocks.append({"type": "tool_use", "id": id, "name": name, "input": {}})
                arguments.append("")
            case CallArguments(text):
                arguments[-1] += text
            case Finish():
                finish = part
    for block, text in zip((b for b in blocks if b["type"] == "tool_use"), arguments, strict=True):
        block["input"] = _input(text)
    return {
        "id": f"msg_{request.number}",
        "type": "message",
        "role": "assistant",
        "model": request.model,
        "content": blocks,
        "stop_reason": _STOP_REASONS.get(finish.reason, "end_turn"),
        "stop_sequence": None,
        "usage": _usage(finish.usage),
    }


class Stream:
    """Parts to server-sent events; one instance per answer."""

    def __init__(self, request: ChatRequest, created: int) -> None:
        self._request = request
        self._block = -1
        self._open = ""

    def begin(self) -> bytes:
        message: dict[str, Any] = {
            "id": f"msg_{self._request.number}",
            "type": "message",
            "role": "assistant",
            "model": self._request.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 0, "output_tokens": 0},
        }
        return _event("message_start", {"message": message}) + _event("ping", {})

    def part(self, part: Part) -> bytes:
        match part:
            case Text(text):
                opened = self._switch("text", {"type": "text", "text": ""})
                return opened + self._delta({"type": "text_delta", "text": text})
            case Reasoning(text):
                opened = self._switch("thinking", {"type": "thinking", "thinking": "", "signature": ""})
                return opened + self._delta({"type": "thinking_delta", "thinking": text})
            case CallStart(id, name):
                closed = self._close()
                return closed + self._switch("tool_use", {"type": "tool_use", "id": id, "name": name, "input": {}})
            case CallArguments(text):
                return self._delta({"type": "input_json_delta", "partial_json": text})
            case Finish(reason, usage):
                delta = {"stop_reason": _STOP_REASONS.get(reason, "end_turn"), "stop_sequence": None}
                return self._close() + _event("message_delta", {"delta": delta, "usage": _usage(usage)})

    def end(self) -> bytes:
        return _event("message_stop", {})

    def failed(self, message: str, body: Any) -> bytes:
        """An error in the middle of the stream."""
        if isinstance(body, str):
            return f"event: error\ndata: {body}\n\n".encode()
        return _event("error", body if body is not None else error_body(500, message))

    def _switch(self, kind: str, block: dict[str, Any]) -> bytes:
        if self._open == kind:
            return b""
        closed = self._close()
        self._block += 1
        self._open = kind
        return closed + _event("content_block_start", {"index": self._block, "content_block": block})

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return _event("content_block_delta", {"index": self._block, "delta": delta})

    def _close(self) -> bytes:
        if not self._open:
            return b""
        signed = self._delta({"type": "signature_delta", "signature": _SIGNATURE}) if self._open == "thinking" else b""
        self._open = ""
        return signed + _event("content_block_stop", {"index": self._block})


def _event(kind: str, data: dict[str, Any]) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + orjson.dumps({"type": kind} | data) + b"\n\n"


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.input_tokens - usage.cached_tokens,
        "output_tokens": usage.output_tokens,
        "cache_read_input_tokens": usage.cached_tokens,
        "cache_creation_input_tokens": 0,
    }


def _input(arguments: str) -> Any:
    """A whole answer has no place for broken JSON: it arrives as the string it is."""
    try:
        return orjson.loads(arguments or "{}")
    except orjson.JSONDecodeError:
        return arguments


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return ""


def _messages(path: str, data: Any) -> list[ChatMessage]:
    """One message may become several: each tool result is its own."""
    if not isinstance(data, dict):
        raise BadRequest(f"{path} must be an object")
    role, content = data.get("role"), data.get("content")
    if role not in ("user", "assistant", "system"):
        raise BadRequest(f"{path}.role must be user or assistant, not {role!r:.40}")
    if isinstance(content, str):
        return [ChatMessage(role=role, text=content)]
    if not isinstance(content, list) or not all(isinstance(block, dict) for block in content):
        raise BadRequest(f"{path}.content must be a string or a list of blocks")
    results = [
        ChatMessage(role="tool", text=_text(block.get("content")), tool_call_id=str(block.get("tool_use_id") or ""))
        for block in content
        if block.get("type") == "tool_result"
    ]
    calls = tuple(
        ToolCall(str(block.get("id") or ""), str(block.get("name") or ""), orjson.dumps(block.get("input")).decode())
        for block in content
        if block.get("type") == "tool_use"
    )
    said = "".join(str(block.get("text") or "") for block in content if block.get("type") == "text")
    if results and not said:
        return results
    return [*results, ChatMessage(role=role, text=said, tool_calls=calls)]


def _tool(path: str, data: Any) -> Tool:
    if not isinstance(data, dict) or not isinstance(data.get("name"), str):
        raise BadRequest(f"{path}.name is required")
    schema = data.get("input_schema") or {}
    if not isinstance(schema, dict):
        raise BadRequest(f"{path}.input_schema must be a JSON schema")
    return Tool(name=data["name"], description=str(data.get("description") or ""), parameters=schema)


def _tool_choice(data: Any) -> ToolChoice:
    if data is None:
        return ToolChoice()
    kind = data.get("type") if isinstance(data, dict) else None
    if kind in ("auto", "none"):
        return ToolChoice(mode=kind)
    if kind == "any":
        return ToolChoice(mode="required")
    if kind == "tool" and isinstance(data.get("name"), str):
        return ToolChoice(mode="required", name=data["name"])
    raise BadRequest("tool_choice.type must be auto, any, tool (with name) or none")
