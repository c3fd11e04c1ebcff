from __future__ import annotations

from urllib.parse import parse_qs

import anyio
import httpx2
import pytest

from agentops.runtime.errors import ProviderAuthFault
from agentops.runtime.providers.oauth2 import ClientCredentials, OAuth2Auth
from agentops.runtime.providers.secrets import Secrets
from agentops.values.clock import LoopClock

pytestmark = pytest.mark.anyio

CREDENTIALS = ClientCredentials("https://login.test/token", "me", "hush", ("a", "b"), "api")


class World:
    """A token endpoint that gives t1, t2, … and an API that takes the token in `valid`."""

    def __init__(self) -> None:
        self.forms: list[dict[str, list[str]]] = []
        self.valid: str | None = None
        self.refuse = False
        self.token = "t{}"

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        if request.url.host == "login.test":
            self.forms.append(parse_qs(request.content.decode()))
            if self.refuse:
                return httpx2.Response(401, json={"error": "invalid_client"})
            return httpx2.Response(200, json={"access_token": self.token.format(len(self.forms)), "expires_in": 100})
        token = request.headers["authorization"].removeprefix("Bearer ")
        return httpx2.Response(200 if self.valid in (None, token) else 401, text=token)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def secrets() -> Secrets:
    return Secrets()


@pytest.fixture
def client(world: World, clock: LoopClock, secrets: Secrets) -> httpx2.AsyncClient:
    auth = OAuth2Auth("cloud", CREDENTIALS, clock, secrets)
    return httpx2.AsyncClient(transport=httpx2.MockTransport(world), auth=auth, base_url="https://api.test")


async def test_a_token_is_kept_until_shortly_before_it_expires(world: World, client: httpx2.AsyncClient) -> None:
    assert (await client.get("/")).text == "t1"
    await anyio.sleep(69)
    assert (await client.get("/")).text == "t1"
    await anyio.sleep(2)
    assert (await client.get("/")).text == "t2"
    assert world.forms[0] == {
        "grant_type": ["client_credentials"],
        "client_id": ["me"],
        "client_secret": ["hush"],
        "scope": ["a b"],
        "audience": ["api"],
    }


async def test_a_token_that_is_refused_is_renewed_once(world: World, client: httpx2.AsyncClient) -> None:
    await client.get("/")
    world.valid = "t2"
    assert (await client.get("/")).text == "t2"
    world.valid = "never"
    assert (await client.get("/")).status_code == 401


async def test_a_refused_client_names_provider_and_endpoint(world: World, client: httpx2.AsyncClient) -> None:
    world.refuse = True
    with pytest.raises(ProviderAuthFault, match=r"provider cloud: .*https://login.test/token"):
        await client.get("/")


async def test_a_token_no_header_can_carry_is_not_told(world: World, client: httpx2.AsyncClient) -> None:
    world.token = "token-{}\nof two lines"
    with pytest.raises(
        ProviderAuthFault, match=r"gave a token that holds a line break.*; check oauth2.tokenURL"
    ) as caught:
        await client.get("/")
    assert "token-1" not in str(caught.value)


async def test_the_last_two_tokens_are_not_quoted(world: World, client: httpx2.AsyncClient, secrets: Secrets) -> None:
    world.token = "token-{}"
    await client.get("/")
    await anyio.sleep(80)
    await client.get("/")
    assert secrets.out_of("token-1 is over, token-2 is not") == "… is over, … is not"


def test_the_secret_does_not_show() -> None:
    assert "hush" not in repr(CREDENTIALS)
