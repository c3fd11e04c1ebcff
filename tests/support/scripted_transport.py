"""A `Transport` that answers what the test says, for tests of what is asked and when.

Not an API server: it validates nothing and stores nothing. Tests of behaviour against a server use
the local plane's.
"""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio

from agentops.kube.errors import TransportError
from agentops.kube.transport import Query, Response


class Request:
    """One request as it was sent."""

    def __init__(self, method: str, path: str, query: Query, headers: Mapping[str, str] | None, body: bytes | None):
        self.method = method
        self.path = path
        self.query = dict(query)
        self.headers = dict(headers or {})
        self.body = json.loads(body) if body else None

    @property
    def is_watch(self) -> bool:
        return "watch" in self.query

    def __repr__(self) -> str:
        return f"<{self.method} {self.path} {self.query}>"


class Feed:
    """One watch stream, driven by the test."""

    def __init__(self, status: int = 200, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        self.status = status
        self.headers = dict(headers or {})
        self.opened = anyio.Event()
        self._body = body
        self._items: deque[bytes | float | Exception | None] = deque()
        self._ready = anyio.Event()

    def bytes(self, data: bytes) -> Feed:
        return self._add(data)

    def event(self, type: str, obj: Mapping[str, Any]) -> Feed:
        return self._add(json.dumps({"type": type, "object": obj}, separators=(",", ":")).encode() + b"\n")

    def bookmark(self, version: int, **metadata: Any) -> Feed:
        return self.event("BOOKMARK", {"kind": "Pod", "metadata": {"resourceVersion": str(version), **metadata}})

    def error(self, code: int, reason: str) -> Feed:
        return self.event("ERROR", status_object(code, reason))

    def end(self) -> Feed:
        return self._add(None)

    def fail(self, error: Exception | None = None) -> Feed:
        return self._add(error or TransportError("connection reset"))

    def wait(self, seconds: float) -> Feed:
        """Silence, by the loop's clock."""
        return self._add(seconds)

    def _add(self, item: bytes | float | Exception | None) -> Feed:
        self._items.append(item)
        self._ready.set()
        return self

    async def chunks(self) -> AsyncIterator[bytes]:
        while True:
            while self._items:
                item = self._items.popleft()
                if item is None:
                    return
                if isinstance(item, Exception):
                    raise item
                if isinstance(item, float | int):
                    await anyio.sleep(item)
                else:
                    yield item
            self._ready = anyio.Event()
            await self._ready.wait()

    async def read(self) -> bytes:
        return self._body


Answer = Response | Exception | Callable[[Request], "Response | Exception"]


class ScriptedTransport:
    """Answers per (method, path), in the order given; the last answer repeats. Watches get feeds likewise."""

    host = "scripted"

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.watches: list[tuple[Request, Feed]] = []
        self._answers: dict[tuple[str, str], deque[Answer]] = defaultdict(deque)
        self._feeds: dict[str, deque[Feed | Exception]] = defaultdict(deque)

    def on(self, method: str, path: str, *answers: Answer) -> None:
        self._answers[method, path].extend(answers)

    def on_watch(self, path: str, *feeds: Feed | Exception) -> None:
        self._feeds[path].extend(feeds)

    def sent(self, method: str, path: str | None = None, *, watch: bool = False) -> list[Request]:
        return [
            r for r in self.requests if r.method == method and r.is_watch == watch and (path is None or r.path == path)
        ]

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Query = (),
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        timeout_s: float | None = 30.0,
    ) -> Response:
        request = Request(method, path, query, headers, body)
        self.requests.append(request)
        await anyio.lowlevel.checkpoint()
        answers = self._answers[method, path]
        if not answers:
            return status(404, "NotFound")
        answer = answers.popleft() if len(answers) > 1 else answers[0]
        if callable(answer) and not isinstance(answer, Exception):
            answer = answer(request)
        if isinstance(answer, Exception):
            raise answer
        return answer

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        *,
        query: Query = (),
        headers: Mapping[str, str] | None = None,
        idle_s: float | None = None,
        total_s: float | None = None,
    ) -> AsyncIterator[Feed]:
        request = Request(method, path, query, headers, None)
        self.requests.append(request)
        await anyio.lowlevel.checkpoint()
        feed = self._feeds[path].popleft() if self._feeds[path] else Feed()
        if isinstance(feed, Exception):
            raise feed
        self.watches.append((request, feed))
        feed.opened.set()
        yield feed

    async def aclose(self) -> None:
        pass


def ok(obj: Mapping[str, Any], code: int = 200) -> Response:
    return Response(code, json.dumps(obj, separators=(",", ":")).encode())


def status_object(code: int, reason: str, message: str = "", **details: Any) -> dict[str, Any]:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "code": code,
        "reason": reason,
        "message": message or reason,
        "details": details,
    }


def status(
    code: int, reason: str, message: str = "", headers: Mapping[str, str] | None = None, **details: Any
) -> Response:
    return Response(code, json.dumps(status_object(code, reason, message, **details)).encode(), dict(headers or {}))


def pod(name: str, version: int, namespace: str = "default", **metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": f"uid-{name}",
            "resourceVersion": str(version),
            **metadata,
        },
        "spec": {"nodeName": "n1"},
    }


def listing(version: int | str, *items: Mapping[str, Any], token: str = "", kind: str = "PodList") -> Response:
    metadata = {"resourceVersion": str(version), **({"continue": token} if token else {})}
    stripped = [{k: v for k, v in item.items() if k not in ("apiVersion", "kind")} for item in items]
    return ok({"kind": kind, "apiVersion": "v1", "metadata": metadata, "items": stripped})


def refused() -> TransportError:
    error = TransportError("connection refused")
    error.__cause__ = ConnectionRefusedError(111, "refused")
    return error


def reset() -> TransportError:
    error = TransportError("connection reset")
    error.__cause__ = ConnectionResetError(104, "reset")
    return error
