"""Who may scrape: a bearer token asked about by TokenReview, its right by SubjectAccessReview.

    no token, not valid, or anonymous ► 401     not allowed ► 403     the API server cannot say ► 500

Answers are kept for a while, under a hash of the token and in bounded tables: a good token 60 s, a
right 300 s, a refusal 30 s. An invalid token is asked about every time.
"""

from __future__ import annotations

import hashlib
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Generic, TypeVar

import anyio
from attrs import field, frozen

from agentops.kube.client import ApiClient
from agentops.kube.errors import ApiError, TransportError
from agentops.kube.kinds import SUBJECT_ACCESS_REVIEW, TOKEN_REVIEW
from agentops.telemetry.logging import get_logger
from agentops.values.clock import Clock, SystemClock

log = get_logger("controller.authfilter")

T = TypeVar("T")
Scope = MutableMapping[str, Any]
App = Callable[..., Awaitable[None]]

ANONYMOUS = "system:anonymous"
MAX_ENTRIES = 4096
_REVIEW_TIMEOUT_S = 10.0
_STEPS, _FIRST_S, _FACTOR, _JITTER = 5, 0.5, 1.5, 0.2


@frozen(slots=True)
class AuthOptions:
    """How long answers are kept, in seconds, and how many of each sort."""

    token_ttl_s: float = 60.0
    allow_ttl_s: float = 300.0
    deny_ttl_s: float = 30.0
    max_entries: int = MAX_ENTRIES
    open_paths: frozenset[str] = field(default=frozenset(), converter=frozenset)


class _Expiring(Generic[T]):
    """A bounded table whose entries end; the one used longest ago makes room."""

    def __init__(self, clock: Clock, limit: int) -> None:
        self._clock = clock
        self._limit = limit
        self._items: OrderedDict[Any, tuple[float, T]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._items)

    def get(self, key: Any) -> T | None:
        found = self._items.get(key)
        if found is None:
            return None
        if found[0] <= self._clock.boottime():
            del self._items[key]
            return None
        self._items.move_to_end(key)
        return found[1]

    def put(self, key: Any, value: T, ttl_s: float) -> None:
        self._items[key] = (self._clock.boottime() + ttl_s, value)
        self._items.move_to_end(key)
        while len(self._items) > self._limit:
            self._items.popitem(last=False)


class AuthFilter:
    """ASGI middleware around `app`. The client's own identity must be allowed to create both reviews."""

    def __init__(
        self,
        app: App,
        client: ApiClient,
        options: AuthOptions | None = None,
        *,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._app = app
        self._client = client
        self._options = options or AuthOptions()
        self._clock = clock or SystemClock()
        self._rng = rng or random.Random()
        self._users: _Expiring[Mapping[str, Any]] = _Expiring(self._clock, self._options.max_entries)
        self._rights: _Expiring[bool] = _Expiring(self._clock, self._options.max_entries)

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"] in self._options.open_paths:
            await self._app(scope, receive, send)
            return
        try:
            code = await self._decide(_bearer(scope), str(scope["method"]).lower(), str(scope["path"]))
        except (ApiError, TransportError) as error:
            log.warning("auth.review_failed", error=f"{type(error).__name__}: {error}")
            code = 500
        if code == 200:
            await self._app(scope, receive, send)
            return
        headers = [(b"content-type", b"text/plain; charset=utf-8")]
        if code == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        text = {401: b"Unauthorized\n", 403: b"Forbidden\n"}.get(code, b"Authentication failed\n")
        await send({"type": "http.response.start", "status": code, "headers": headers})
        await send({"type": "http.response.body", "body": text})

    async def _decide(self, token: str, verb: str, path: str) -> int:
        if not token:
            return 401
        key = hashlib.sha256(token.encode()).digest()
        user = self._users.get(key)
        if user is None:
            user = await self._authenticate(token)
            if user is None:
                return 401
            self._users.put(key, user, self._options.token_ttl_s)
        allowed = self._rights.get((key, verb, path))
        if allowed is None:
            allowed = await self._authorize(user, verb, path)
            ttl_s = self._options.allow_ttl_s if allowed else self._options.deny_ttl_s
            self._rights.put((key, verb, path), allowed, ttl_s)
        return 200 if allowed else 403

    async def _authenticate(self, token: str) -> Mapping[str, Any] | None:
        review = {"apiVersion": TOKEN_REVIEW.api_version, "kind": "TokenReview", "spec": {"token": token}}
        status = await self._ask(TOKEN_REVIEW, review)
        user: Mapping[str, Any] = status.get("user") or {}
        if not status.get("authenticated") or user.get("username", ANONYMOUS) == ANONYMOUS:
            return None
        return user

    async def _authorize(self, user: Mapping[str, Any], verb: str, path: str) -> bool:
        spec: dict[str, Any] = {
            "user": user.get("username", ""),
            "nonResourceAttributes": {"verb": verb, "path": path},
        }
        for name in ("uid", "groups", "extra"):
            if user.get(name):
                spec[name] = user[name]
        review = {"apiVersion": SUBJECT_ACCESS_REVIEW.api_version, "kind": "SubjectAccessReview", "spec": spec}
        status = await self._ask(SUBJECT_ACCESS_REVIEW, review)
        return bool(status.get("allowed")) and not status.get("denied")

    async def _ask(self, kind: Any, review: Mapping[str, Any]) -> Mapping[str, Any]:
        """The review's status. Asks again when it was not answered: asking changes nothing."""
        delay_s = _FIRST_S
        for step in range(_STEPS):
            try:
                with anyio.fail_after(_REVIEW_TIMEOUT_S):
                    answer = await self._client.create(kind, dict(review))
                return answer.get("status") or {}
            except (ApiError, TransportError, TimeoutError) as error:
                if step == _STEPS - 1 or (isinstance(error, ApiError) and error.code < 500 and error.code != 429):
                    if isinstance(error, TimeoutError):
                        raise TransportError(f"no answer within {_REVIEW_TIMEOUT_S:g} s") from error
                    raise
            await self._clock.sleep(delay_s * (1 + self._rng.uniform(0, _JITTER)))
            delay_s *= _FACTOR
        raise AssertionError("unreachable")


def _bearer(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, token = value.decode("latin-1").partition(" ")
            return token.strip() if scheme.lower() == "bearer" else ""
    return ""
