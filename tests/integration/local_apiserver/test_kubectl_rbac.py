"""kubectl and roles."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.anyio


async def test_can_i_says_what_a_request_as_that_account_would_meet(cluster: Any) -> None:
    bot = "--as=system:serviceaccount:default:bot"
    assert (await cluster.kubectl("auth", "can-i", "delete", "pods")).stdout == "yes\n"
    assert (await cluster.kubectl("auth", "can-i", "list", "pods", bot, ok=False)).stdout == "no\n"
    refused = await cluster.kubectl("get", "pods", bot, ok=False)
    assert 'cannot list resource "pods" in API group "" in the namespace "default"' in refused.stderr
    await cluster.kubectl("create", "role", "reader", "--verb=get,list", "--resource=pods")
    await cluster.kubectl("create", "rolebinding", "reader", "--role=reader", "--serviceaccount=default:bot")
    assert (await cluster.kubectl("auth", "can-i", "list", "pods", bot)).stdout == "yes\n"
    assert (await cluster.kubectl("auth", "can-i", "delete", "pods", bot, ok=False)).stdout == "no\n"
    await cluster.kubectl("get", "pods", bot)
    listed = (await cluster.kubectl("auth", "can-i", "--list", bot)).stdout
    assert any(line.startswith("pods ") and "[get list]" in line for line in listed.splitlines()), listed
    await cluster.kubectl("create", "clusterrolebinding", "v", "--clusterrole=view", "--user=ann")
    assert (await cluster.kubectl("auth", "can-i", "list", "services", "--as=ann")).stdout == "yes\n"
    assert (await cluster.kubectl("auth", "can-i", "list", "secrets", "--as=ann", ok=False)).stdout == "no\n"
