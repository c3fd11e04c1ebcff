from __future__ import annotations

from urllib.parse import parse_qs

import anyio
import httpx2
import pytest

from agentops.runtime.errors import ProviderAuthFault
from agentops.runtime.providers.oauth2 import ClientCredentials, OAuth2Auth
from agentops.values.clock import LoopClock

pytestmark = pytest.mark.anyio

CREDENTIALS = ClientCredentials("https://login.test/token", "me", "hush", ("a", "b"), "api")


class World:
    """A token endpoint that gives t1, t2, … and an API that takes the token in `valid`."""

    def __init__(self) -> None:
        self.forms: list[dict[str, list[str]]] = []
        self.valid: str | None = None
        self.refuse = False

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        if request.url.host == "login.test":
            self.forms.append(parse_qs(request.content.decode()))
            if self.refuse:
                return httpx2.Response(401, json={"error": "invalid_client"})
            return httpx2.Response(200, json={"access_token": f"t{len(self.forms)}", "expires_in": 100})
        token = request.headers["authorization"].removeprefix("Bearer ")
        return httpx2.Response(200 if self.valid in (None, token) else 401, text=token)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def client(world: World, clock: LoopClock) -> httpx2.AsyncClient:
    auth = OAuth2Auth("cloud", CREDENTIALS, clock)
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


def test_the_secret_does_not_show() -> None:
    assert "hush" not in repr(CREDENTIALS)
