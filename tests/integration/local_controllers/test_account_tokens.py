"""Secrets that hold the token of a ServiceAccount."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from support.plane import ApiPlane, eventually

from agentops.kube.errors import Invalid
from agentops.kube.kinds import SECRET, SERVICE_ACCOUNT
from agentops.local.apiserver.http import Request, User

pytestmark = pytest.mark.anyio

NAME, UID = "kubernetes.io/service-account.name", "kubernetes.io/service-account.uid"


def secret(name: str, **annotations: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": "ns", "annotations": annotations},
        "type": "kubernetes.io/service-account-token",
    }


async def made(plane: ApiPlane, name: str, account: str) -> dict[str, Any]:
    """The Secret, filled; its data as text."""
    await plane.client.create(SECRET, secret(name, **{NAME: account}))

    async def filled() -> dict[str, Any] | None:
        live = await plane.client.get(SECRET, name, "ns")
        return live if "token" in (live.get("data") or {}) else None

    live = await eventually(filled)
    return {**live, "data": {key: base64.b64decode(value).decode() for key, value in live["data"].items()}}


def user_of(plane: ApiPlane, token: str, *audiences: str) -> User | None:
    return plane.server.authenticator.user_of(token, *([audiences] if audiences else []))


async def deleted(plane: ApiPlane, name: str) -> None:
    async def gone() -> bool:
        return name not in {s["metadata"]["name"] for s in await plane.client.list(SECRET, "ns")}

    await eventually(gone)


@pytest.fixture
async def account(plane: ApiPlane) -> dict[str, Any]:
    body = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot", "namespace": "ns"}}
    return await plane.client.create(SERVICE_ACCOUNT, body)


async def test_a_secret_is_filled_and_its_token_is_good_until_the_secret_is_gone(
    plane: ApiPlane, account: dict[str, Any]
) -> None:
    live = await made(plane, "t", "robot")
    assert live["data"] == {"token": live["data"]["token"], "ca.crt": "test ca", "namespace": "ns"}
    assert live["metadata"]["annotations"][UID] == account["metadata"]["uid"]
    token = live["data"]["token"]
    assert user_of(plane, token) == User(
        "system:serviceaccount:ns:robot",
        ("system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated"),
        account["metadata"]["uid"],
    )
    request = Request("GET", "/api/v1/namespaces/ns/secrets", (), {"authorization": f"Bearer {token}"}, b"", None)
    assert (await plane.server.handle(request)).status == 403, "known, and may not"
    assert user_of(plane, token, "https://elsewhere") is None
    assert user_of(plane, token[:-8] + "AAAAAAAA") is None
    await plane.client.delete(SECRET, "t", "ns")
    assert user_of(plane, token) is None
    assert (await plane.server.handle(request)).status == 401


async def test_a_token_that_is_taken_out_is_good_no_more_and_put_back(plane: ApiPlane, account: dict[str, Any]) -> None:
    token = (await made(plane, "t", "robot"))["data"]["token"]
    other = (await made(plane, "u", "robot"))["data"]["token"]
    assert token != other
    live = await plane.client.get(SECRET, "t", "ns")
    await plane.client.update(SECRET, {**live, "data": {"token": base64.b64encode(other.encode()).decode()}})
    assert user_of(plane, token) is None
    await plane.client.patch(SECRET, "t", {"data": None}, "ns")

    async def good_again() -> bool:
        return user_of(plane, token) is not None

    await eventually(good_again)


async def test_secrets_go_with_their_account(plane: ApiPlane, account: dict[str, Any]) -> None:
    token = (await made(plane, "t", "robot"))["data"]["token"]
    await made(plane, "default-t", "default")
    await plane.client.delete(SERVICE_ACCOUNT, "robot", "ns")
    assert user_of(plane, token) is None, "at once, not only when the Secret is gone"
    await deleted(plane, "t")
    assert await plane.client.get(SECRET, "default-t", "ns")


async def test_a_secret_for_no_account_or_an_earlier_one_is_deleted(plane: ApiPlane, account: dict[str, Any]) -> None:
    await plane.client.create(SECRET, secret("nobody", **{NAME: "nobody"}))
    await deleted(plane, "nobody")
    await plane.client.create(SECRET, secret("old", **{NAME: "robot", UID: "of an earlier robot"}))
    await deleted(plane, "old")


async def test_the_account_must_be_named(plane: ApiPlane) -> None:
    with pytest.raises(Invalid, match=r"metadata.annotations\[kubernetes.io/service-account.name\]: Required value"):
        await plane.client.create(SECRET, secret("t"))
