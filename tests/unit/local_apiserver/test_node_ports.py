"""Node ports of Services: given out, kept, checked and let go of."""

from __future__ import annotations

from typing import Any

import pytest
from support.apiserver import Api

pytestmark = pytest.mark.anyio

SERVICES = "/api/v1/namespaces/default/services"
RANGE = range(30000, 32768)


def service(
    name: str, type: str = "NodePort", ports: list[dict[str, Any]] | None = None, **spec: Any
) -> dict[str, Any]:
    body = {"type": type, "ports": ports or [{"port": 80}], "selector": {"app": name}, **spec}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": body}


def numbers(body: dict[str, Any]) -> list[int | None]:
    return [port.get("nodePort") for port in body["spec"]["ports"]]


async def test_every_port_gets_a_number_of_its_own_and_keeps_it(api: Api) -> None:
    seen: set[int] = set()
    for index in range(20):
        ports = [{"name": "a", "port": 80}, {"name": "b", "port": 81}]
        made = await api.post(SERVICES, service(f"s{index}", "LoadBalancer" if index % 2 else "NodePort", ports))
        assert made.status == 201, made.message
        assert all(number in RANGE for number in numbers(made.body))
        seen |= set(numbers(made.body))
    assert len(seen) == 40
    before = numbers((await api.get(f"{SERVICES}/s0")).body)
    swapped = service("s0", ports=[{"name": "b", "port": 91}, {"name": "c", "port": 92}, {"name": "a", "port": 80}])
    after = numbers((await api.put(f"{SERVICES}/s0", swapped)).body)
    assert [after[2], after[0]] == before, "by the name of the port"
    assert after[1] in RANGE and after[1] not in seen


async def test_ports_that_differ_in_protocol_only_share_a_number(api: Api) -> None:
    ports = [{"name": "udp", "port": 53, "protocol": "UDP"}, {"name": "tcp", "port": 53, "nodePort": 30053}]
    assert numbers((await api.post(SERVICES, service("dns", ports=ports))).body) == [30053, 30053]


async def test_a_number_by_hand_is_taken_or_refused(api: Api) -> None:
    assert numbers((await api.post(SERVICES, service("a", ports=[{"port": 80, "nodePort": 30080}]))).body) == [30080]
    taken = await api.post(SERVICES, service("b", ports=[{"port": 80, "nodePort": 30080}]))
    assert (taken.status, taken.message) == (
        422,
        'Service "b" is invalid: spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated',
    )
    outside = await api.post(SERVICES, service("b", ports=[{"port": 80, "nodePort": 80}]))
    assert (outside.status, outside.message) == (
        422,
        'Service "b" is invalid: spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. '
        "The range of valid ports is 30000-32767",
    )
    inside = await api.post(SERVICES, service("b", "ClusterIP", [{"port": 80, "nodePort": 30081}]))
    assert "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'" in inside.message
    twice = [{"name": "a", "port": 80, "nodePort": 30090}, {"name": "b", "port": 81, "nodePort": 30090}]
    assert (
        "spec.ports[1].nodePort: Duplicate value: 30090"
        in (await api.post(SERVICES, service("b", ports=twice))).message
    )
    assert 400 <= (await api.post(SERVICES, service("b", ports=[{"port": 80, "nodePort": "x"}]))).status < 500
    await api.delete(f"{SERVICES}/a")
    freed = await api.post(SERVICES, service("b", ports=[{"port": 80, "nodePort": 30080}]))
    assert numbers(freed.body) == [30080], "a deleted Service gives its number back"


async def test_a_change_of_type_takes_and_gives_back_numbers(api: Api) -> None:
    assert numbers((await api.post(SERVICES, service("web", "ClusterIP"))).body) == [None]
    (number,) = numbers((await api.patch(f"{SERVICES}/web", {"spec": {"type": "NodePort"}})).body)
    assert number in RANGE
    balanced = (await api.patch(f"{SERVICES}/web", {"spec": {"type": "LoadBalancer"}})).body
    assert numbers(balanced) == [number]
    assert balanced["spec"]["allocateLoadBalancerNodePorts"] is True
    back = (await api.patch(f"{SERVICES}/web", {"spec": {"type": "ClusterIP"}})).body
    assert numbers(back) == [None]
    assert not {"externalTrafficPolicy", "allocateLoadBalancerNodePorts"} & back["spec"].keys()
    other = service("other", ports=[{"port": 80, "nodePort": number}])
    assert (await api.post(SERVICES, other)).status == 201


async def test_a_load_balancer_may_do_without(api: Api) -> None:
    made = await api.post(SERVICES, service("lb", "LoadBalancer", allocateLoadBalancerNodePorts=False))
    assert numbers(made.body) == [None]


async def test_a_local_load_balancer_gets_a_port_for_its_health_check(api: Api) -> None:
    made = (await api.post(SERVICES, service("lb", "LoadBalancer", externalTrafficPolicy="Local"))).body
    check = made["spec"]["healthCheckNodePort"]
    assert check in RANGE and check not in numbers(made)
    taken = await api.post(SERVICES, service("b", ports=[{"port": 80, "nodePort": check}]))
    assert "provided port is already allocated" in taken.message
    wanted = service("lb", "LoadBalancer", externalTrafficPolicy="Local")
    assert (await api.put(f"{SERVICES}/lb", wanted)).body["spec"]["healthCheckNodePort"] == check
    moved = await api.patch(f"{SERVICES}/lb", {"spec": {"healthCheckNodePort": 30001}})
    assert "spec.healthCheckNodePort: Invalid value: 30001: field is immutable" in moved.message
    cluster = (await api.patch(f"{SERVICES}/lb", {"spec": {"externalTrafficPolicy": "Cluster"}})).body
    assert "healthCheckNodePort" not in cluster["spec"]
    odd = await api.post(SERVICES, service("c", healthCheckNodePort=30002))
    assert "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'" in odd.message


async def test_all_numbers_can_be_given_out_and_not_one_more(api: Api) -> None:
    ports = [{"name": f"p{n}", "port": 1 + n, "nodePort": RANGE[n]} for n in range(1, len(RANGE))]
    assert (await api.post(SERVICES, service("big", ports=ports))).status == 201
    assert numbers((await api.post(SERVICES, service("last"))).body) == [30000]
    full = await api.post(SERVICES, service("more"))
    assert (full.status, full.message) == (
        500,
        "Internal error occurred: failed to allocate a nodePort: range is full",
    )
