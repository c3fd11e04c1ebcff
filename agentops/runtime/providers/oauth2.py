"""OAuth2 client_credentials for provider calls: a token fetched when first needed and kept until it ages.

Plugged into the adapter's HTTP client as its auth, so every provider type gets it the same way.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

import anyio
import httpx2
import orjson
from attrs import frozen

from agentops.runtime.errors import ProviderAuthFault
from agentops.runtime.providers.secrets import Secrets
from agentops.values.clock import Clock
from agentops.values.headers import value_problem

EARLY_S = 30.0
"""A token is renewed this long before it expires."""
ASSUMED_LIFETIME_S = 300.0
"""What is assumed when the answer names no lifetime."""


@frozen
class ClientCredentials:
    """`client_id` and `client_secret` are values, never logged; `repr` hides them."""

    token_url: str
    client_id: str
    client_secret: str
    scopes: tuple[str, ...] = ()
    audience: str | None = None

    def __repr__(self) -> str:
        return f"ClientCredentials({self.token_url!r})"


class OAuth2Auth(httpx2.Auth):
    """Adds `Authorization: Bearer …`; on a 401 fetches a new token once and tries again.

    `secrets` is told the tokens, so that nobody is quoted with one.
    """

    def __init__(self, provider: str, credentials: ClientCredentials, clock: Clock, secrets: Secrets) -> None:
        self._provider = provider
        self._credentials = credentials
        self._clock = clock
        self._secrets = secrets
        self._token = ""
        self._renew_at = 0.0
        self._lock = anyio.Lock()

    async def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        async with self._lock:
            if not self._token or self._clock.boottime() >= self._renew_at:
                self._accept(await self._read((yield self._token_request())))
            token = self._token
        request.headers["Authorization"] = f"Bearer {token}"
        response = yield request
        if response.status_code != 401:
            return
        async with self._lock:
            if self._token == token:
                self._accept(await self._read((yield self._token_request())))
        request.headers["Authorization"] = f"Bearer {self._token}"
        yield request

    def _token_request(self) -> httpx2.Request:
        form = {
            "grant_type": "client_credentials",
            "client_id": self._credentials.client_id,
            "client_secret": self._credentials.client_secret,
        }
        if self._credentials.scopes:
            form["scope"] = " ".join(self._credentials.scopes)
        if self._credentials.audience:
            form["audience"] = self._credentials.audience
        return httpx2.Request("POST", self._credentials.token_url, data=form)

    async def _read(self, response: httpx2.Response) -> tuple[int, bytes]:
        return response.status_code, await response.aread()

    def _accept(self, answer: tuple[int, bytes]) -> None:
        status, body = answer
        try:
            data = orjson.loads(body)
        except orjson.JSONDecodeError:
            data = None
        token = data.get("access_token") if isinstance(data, dict) else None
        token = token if isinstance(token, str) and status == 200 else ""
        problem = ""
        if not token:
            problem = f"gave no token (HTTP {status}); check oauth2.tokenURL, the client id and the client secret"
        elif held := value_problem(token):
            problem = f"gave a token that {held}, which no HTTP header can carry; check oauth2.tokenURL"
        if problem:
            raise ProviderAuthFault(
                f"provider {self._provider}: the token endpoint {self._credentials.token_url} {problem}",
                provider=self._provider,
                status=status,
                kind="auth_error",
            )
        self._secrets.renew(token)
        lifetime = data.get("expires_in")
        seconds = float(lifetime) if isinstance(lifetime, int | float) and lifetime > 0 else ASSUMED_LIFETIME_S
        self._token = token
        self._renew_at = self._clock.boottime() + max(1.0, seconds - EARLY_S)
