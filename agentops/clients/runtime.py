"""The HTTP API of one agent pod, as a caller sees it.

Every call is one request: whether to try again is the caller's decision, because a prompt must never be
executed twice. What is safe follows from the error (see `clients.errors`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, TypeVar

import httpx2
import orjson
from attrs import frozen

from agentops.api.codec import WireError, dumps, loads
from agentops.api.runs import (
    RUN_NAME_HEADER,
    RUN_UID_HEADER,
    TOKEN_HEADER,
    AcceptedRun,
    PromptRequest,
    RunRecord,
)
from agentops.clients.errors import Busy, NotFound, NotSent, Refused, RuntimeClientError, Unanswered, Unauthorized

REQUEST_TIMEOUT_S = 10.0
_T = TypeVar("_T")
MAX_ANSWER_BYTES = 32 * 1024 * 1024
"""Of one answer. A record is far smaller; a pod must not be able to fill its caller's memory."""
_NOT_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)

_UNSENDABLE = (httpx2.LocalProtocolError, httpx2.UnsupportedProtocol, httpx2.InvalidURL, UnicodeError)
"""Raised before the first byte; the texts quote what could not be sent, which may be a token."""
_NO_REQUEST = "the request cannot be sent: the bearer or another header holds what HTTP cannot carry"


@frozen(slots=True)
class _Answer:
    """A whole answer that is no refusal. `request` is for messages."""

    request: str
    status_code: int
    body: bytes


class RuntimeClient:
    """Talks to `base_url` (`http://<pod IP>:4096`) with a bearer. `http` belongs to the caller."""

    def __init__(self, http: httpx2.AsyncClient, base_url: str, token: str | None) -> None:
        self._http = http
        self._base_url = base_url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}", TOKEN_HEADER: token} if token else {}

    async def start(
        self, run: str, prompt: str, headers: Mapping[str, str] | None = None, *, uid: str = ""
    ) -> AcceptedRun:
        """Ask for an asynchronous run. Idempotent by `run` and `uid` as long as the pod's state lives.

        Raises NotSent, Unanswered, Busy, Unauthorized or Refused (409: the name is taken by another prompt).
        """
        sent = {
            **(headers or {}),
            "Content-Type": "application/json",
            "Prefer": "respond-async",
            RUN_NAME_HEADER: run,
            **_uid(uid),
        }
        response = await self._request("POST", "/prompt", content=dumps(PromptRequest(prompt=prompt)), headers=sent)
        if response.status_code != 202:
            raise Unanswered(
                f"POST {self._base_url}/prompt answered {response.status_code} where 202 was expected: the runtime "
                "does not do asynchronous runs; use the image of this release"
            )
        return _parse(AcceptedRun, response)

    async def run(self, name: str, *, uid: str = "", wait_s: int = 0) -> RunRecord:
        """The record of a run; with `wait_s`, when it has ended or that time has passed.

        A runtime that cannot wait answers at once. Raises NotFound when there is no such record, else as `start`.
        """
        headers = {**_uid(uid), **({"Prefer": f"wait={wait_s}"} if wait_s else {})}
        answer = await self._request("GET", f"/runs/{name}", headers=headers, timeout_s=REQUEST_TIMEOUT_S + wait_s)
        return _parse(RunRecord, answer)

    async def abort(self, run: str, *, uid: str = "") -> None:
        """Stop the turn of `run`. Nothing happens when another run, or none, is the current one."""
        await self._request("DELETE", "/abort", headers={RUN_NAME_HEADER: run, **_uid(uid)})

    async def events(self, name: str, after: int | None = None) -> AsyncIterator[dict[str, Any]]:
        """The run's FEP events from the start, or after sequence number `after`, until the stream ends."""
        headers = {**self._headers, "Accept": "text/event-stream"}
        if after is not None:
            headers["Last-Event-ID"] = str(after)
        timeout = httpx2.Timeout(REQUEST_TIMEOUT_S, read=60.0)
        url = f"{self._base_url}/runs/{name}/events"
        try:
            async with self._http.stream("GET", url, headers=headers, timeout=timeout) as response:
                if response.status_code >= 400:
                    _raise_refusal(response.status_code, await _read(response, f"GET {url}"), "GET", url)
                async for line in response.aiter_lines():
                    if line.startswith("data:"):
                        yield orjson.loads(line[5:])
        except _NOT_SENT as error:
            raise NotSent(f"GET {url}: no connection ({error})") from error
        except _UNSENDABLE as error:
            raise NotSent(f"GET {url}: {_NO_REQUEST}") from error
        except httpx2.HTTPError as error:
            raise Unanswered(f"GET {url}: {_said(error)}") from error

    async def _request(
        self,
        method: str,
        path: str,
        *,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> _Answer:
        url = self._base_url + path
        try:
            async with self._http.stream(
                method,
                url,
                content=content,
                headers={**self._headers, **(headers or {})},
                timeout=httpx2.Timeout(REQUEST_TIMEOUT_S, read=timeout_s),
            ) as response:
                body = await _read(response, f"{method} {url}")
        except _NOT_SENT as error:
            raise NotSent(f"{method} {url}: no connection ({_said(error)})") from error
        except _UNSENDABLE as error:
            raise NotSent(f"{method} {url}: {_NO_REQUEST}") from error
        except httpx2.HTTPError as error:
            raise Unanswered(f"{method} {url}: {_said(error)}") from error
        if response.status_code >= 400:
            _raise_refusal(response.status_code, body, method, url)
        return _Answer(f"{method} {url}", response.status_code, body)


async def _read(response: httpx2.Response, request: str) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise Unanswered(f"{request} answered more than {MAX_ANSWER_BYTES} bytes")
    return bytes(body)


def _uid(uid: str) -> dict[str, str]:
    return {RUN_UID_HEADER: uid} if uid else {}


def _raise_refusal(status: int, body: bytes, method: str, url: str) -> None:
    message = f"{method} {url} answered {status}: {_error_text(body)}"
    if status in (429, 503):
        raise Busy(message, status)
    if status in (401, 403):
        raise Unauthorized(message, status)
    if status == 404:
        raise NotFound(message, status)
    raise Refused(message, status)


def _error_text(body: bytes) -> str:
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        parsed = None
    if isinstance(parsed, dict) and isinstance(parsed.get("error"), str):
        return str(parsed["error"])
    return body.decode("utf-8", "replace").strip()[:500] or "no explanation"


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__


def _parse(cls: type[_T], answer: _Answer) -> _T:
    try:
        return loads(cls, answer.body)
    except WireError as error:
        raise Unanswered(f"{answer.request} answered with {error}") from error


__all__ = ["REQUEST_TIMEOUT_S", "RuntimeClient", "RuntimeClientError"]
