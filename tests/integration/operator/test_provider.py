"""Providers on a real API server."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.operator import NAMESPACE, agent_object, provider_object
from support.operator_plane import OperatorPlane, condition, has, operator_plane, phase

from agentops.api.kinds import AGENT, PROVIDER
from agentops.kube.kinds import SECRET

pytestmark = pytest.mark.anyio


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[OperatorPlane]:
    async with operator_plane(tmp_path) as plane, plane.operator():
        yield plane


def secret(name: str, **values: str) -> dict[str, Any]:
    data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": NAMESPACE}, "data": data}


KEYED = {"type": "openai", "apiKeySecret": {"name": "key", "key": "api-key"}, "endpoint": {"baseURL": "http://api/v1"}}


async def test_a_provider_without_a_key_is_ready(plane: OperatorPlane) -> None:
    await plane.create(provider_object())
    found = await plane.until(PROVIDER, "local", has("Ready", "True"))
    assert phase(found) == "Ready"
    assert found["status"]["observedGeneration"] == 1
    assert condition(found, "SecretReady")["reason"] == "NotApplicable"


async def test_a_missing_secret_is_named_and_its_creation_heals(plane: OperatorPlane) -> None:
    await plane.create(provider_object("cloud", **KEYED))
    found = await plane.until(PROVIDER, "cloud", has("SecretReady", "False", "SecretNotFound"))
    assert phase(found) == "Failed"
    assert "Secret agents/key" in condition(found, "SecretReady")["message"]
    await plane.create(secret("key"))
    await plane.until(PROVIDER, "cloud", has("SecretReady", "False", "KeyNotFound"))
    await plane.patch(SECRET, "key", {"data": {"api-key": ""}})
    await plane.until(PROVIDER, "cloud", lambda obj: "is empty" in condition(obj, "SecretReady").get("message", ""))
    await plane.patch(SECRET, "key", {"stringData": {"api-key": "k"}})
    await plane.until(PROVIDER, "cloud", has("Ready", "True"))
    await plane.client.delete(SECRET, "key", NAMESPACE)
    await plane.until(PROVIDER, "cloud", has("Ready", "False", "SecretNotFound"))


async def test_a_key_that_no_header_can_carry_is_told_without_the_key(plane: OperatorPlane) -> None:
    await plane.create(secret("key", **{"api-key": "sk-REAL\n# rotated 2026"}))
    await plane.create(provider_object("cloud", **KEYED))
    found = await plane.until(PROVIDER, "cloud", has("SecretReady", "False", "SecretError"))
    assert phase(found) == "Failed"
    message = condition(found, "SecretReady")["message"]
    assert "Secret agents/key of spec.apiKeySecret: key 'api-key' holds a line break" in message
    assert "sk-REAL" not in str(found)
    await plane.patch(SECRET, "key", {"stringData": {"api-key": "sk-REAL\n"}})
    await plane.until(PROVIDER, "cloud", has("Ready", "True"))


async def test_every_problem_of_the_configuration_is_told(plane: OperatorPlane) -> None:
    await plane.create(provider_object(config={"azureAPIVersion": "1", "vertex": {"project": "p", "location": "l"}}))
    found = await plane.until(PROVIDER, "local", has("ConfigValid", "False", "InvalidConfig"))
    message = condition(found, "ConfigValid")["message"]
    assert "spec.config.azureAPIVersion" in message
    assert "spec.config.vertex" in message


async def test_oauth2_secrets_are_checked_too(plane: OperatorPlane) -> None:
    grant = {
        "tokenURL": "http://idp/token",
        "clientIdSecret": {"name": "oauth", "key": "id"},
        "clientSecretSecret": {"name": "oauth", "key": "secret"},
    }
    await plane.create(provider_object(endpoint={"baseURL": "http://api/v1", "oauth2ClientCredentials": grant}))
    await plane.until(PROVIDER, "local", has("SecretReady", "False", "SecretNotFound"))
    await plane.create(secret("oauth", id="a", secret="b"))
    await plane.until(PROVIDER, "local", has("Ready", "True"))


async def test_bound_agents_follow_binding_and_unbinding(plane: OperatorPlane) -> None:
    await plane.create(provider_object(), provider_object("other"), agent_object())
    await plane.until(PROVIDER, "local", lambda obj: obj.get("status", {}).get("boundAgents") == 1)
    await plane.patch(AGENT, "hello", {"spec": {"providerRefs": [{"name": "other"}], "model": "other/x"}})
    await plane.until(PROVIDER, "local", lambda obj: obj["status"]["boundAgents"] == 0)
    await plane.until(PROVIDER, "other", lambda obj: obj["status"]["boundAgents"] == 1)


async def test_a_401_from_the_endpoint_names_secret_and_field_and_holds_nothing_back(plane: OperatorPlane) -> None:
    plane.runtime.endpoint = 401
    await plane.create(secret("key", **{"api-key": "wrong"}), provider_object("cloud", **KEYED))
    found = await plane.until(PROVIDER, "cloud", has("EndpointReachable", "False", "Unauthorized"))
    assert "Secret agents/key" in condition(found, "EndpointReachable")["message"]
    assert phase(found) == "Ready"
    plane.runtime.endpoint = 200
    await plane.patch(SECRET, "key", {"stringData": {"api-key": "right"}})
    await plane.until(PROVIDER, "cloud", has("EndpointReachable", "True", "Reachable"))


async def test_a_settled_provider_costs_no_writes(plane: OperatorPlane) -> None:
    await plane.create(provider_object())
    await plane.until(PROVIDER, "local", has("EndpointReachable", "True"))
    assert await plane.quiet() == []
