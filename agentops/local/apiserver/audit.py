"""The audit log: one audit.k8s.io/v1-like JSON line a request, two for streams (start and end)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from io import BufferedWriter
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson

from agentops.local.apiserver.auth import Attributes
from agentops.local.apiserver.http import Answer, Request, Response, Stream, User, WebSocket, WebSocketUpgrade
from agentops.values.clock import Clock, rfc3339


class AuditLog:
    """Appends to a file. Inert until `open`."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._file: BufferedWriter | None = None

    def open(self) -> None:
        """Raises OSError when the file cannot be written."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("ab")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def event(
        self,
        stage: str,
        request: Request,
        user: User | None,
        attributes: Attributes | None,
        code: int,
        *,
        received: str,
        audit_id: str = "",
    ) -> str:
        """Write one line and return its audit id. `stage` is ResponseStarted or ResponseComplete."""
        audit_id = audit_id or str(uuid4())
        if self._file is None:
            return audit_id
        uri = request.path
        if request.query:
            from urllib.parse import urlencode

            uri += "?" + urlencode(request.query)
        line: dict[str, Any] = {
            "kind": "Event",
            "apiVersion": "audit.k8s.io/v1",
            "level": "Metadata",
            "auditID": audit_id,
            "stage": stage,
            "requestURI": uri,
            "verb": attributes.verb if attributes else request.method.lower(),
            "user": {"username": user.name if user else "", "groups": list(user.groups) if user else []},
            "sourceIPs": [request.remote] if request.remote else [],
            "userAgent": request.header("user-agent"),
            "responseStatus": {"metadata": {}, "code": code},
            "requestReceivedTimestamp": received,
            "stageTimestamp": rfc3339(self._clock.now(), micro=True),
        }
        if attributes is not None and attributes.is_resource:
            names = ("resource", "namespace", "name", "group", "version", "subresource")
            keys = ("resource", "namespace", "name", "apiGroup", "apiVersion", "subresource")
            line["objectRef"] = {
                key: value for key, value in zip(keys, (getattr(attributes, n) for n in names), strict=True) if value
            }
            if attributes.verb == "create" and (name := _name_in(request)):
                line["objectRef"].setdefault("name", name)
        self._file.write(orjson.dumps(line) + b"\n")
        self._file.flush()
        return audit_id

    def answered(
        self, answer: Answer, request: Request, user: User | None, about: Attributes | None, received: str
    ) -> Answer:
        """Log an answer; of a stream now that it starts, and through what is returned when it ends."""
        if isinstance(answer, Response):
            self.event("ResponseComplete", request, user, about, answer.status, received=received)
            return answer
        code = answer.status if isinstance(answer, Stream) else 101
        audit_id = self.event("ResponseStarted", request, user, about, code, received=received)

        def ended() -> None:
            self.event("ResponseComplete", request, user, about, code, received=received, audit_id=audit_id)

        if not isinstance(answer, Stream):
            serve = answer.serve

            async def serve_logged(socket: WebSocket) -> None:
                try:
                    await serve(socket)
                finally:
                    ended()

            return WebSocketUpgrade(answer.protocols, serve_logged)
        opened = answer.open

        def open_logged() -> AsyncIterator[bytes]:
            inner = opened()

            async def body() -> AsyncIterator[bytes]:
                try:
                    async for chunk in inner:
                        yield chunk
                finally:
                    close = getattr(inner, "aclose", None)
                    if close is not None:
                        await close()
                    ended()

            return body()

        return Stream(open_logged, answer.status, answer.headers)


def _name_in(request: Request) -> str:
    """The name a JSON body gives its object; empty when it gives none, or is no such thing."""
    try:
        meta = orjson.loads(request.body)["metadata"]
        name = meta.get("name")
    except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError):
        return ""
    return name if isinstance(name, str) else ""
