"""Endpoints and EndpointSlices of a Service."""

from __future__ import annotations

from typing import Any

from agentops.local.controllers.slices import MANAGED_BY, SERVICE_NAME, endpoint_slices_for, endpoints_for


def test_ready_and_waiting_pods_stand_apart(make: Any) -> None:
    pods = [make.pod("a", ip="127.65.0.2"), make.pod("b", ip="127.65.0.3", ready=False)]
    endpoints = endpoints_for(make.service(), pods)
    (subset,) = endpoints["subsets"]
    assert [a["ip"] for a in subset["addresses"]] == ["127.65.0.2"]
    assert [a["ip"] for a in subset["notReadyAddresses"]] == ["127.65.0.3"]
    assert subset["ports"] == [{"port": 8080, "protocol": "TCP"}]
    (piece,) = endpoint_slices_for(make.service(), pods)
    assert [e["conditions"]["ready"] for e in piece["endpoints"]] == [True, False]
    assert piece["metadata"]["labels"][SERVICE_NAME] == "web"
    assert MANAGED_BY in piece["metadata"]["labels"]


def test_pods_without_address_or_already_ended_are_not_behind_the_service(make: Any) -> None:
    pods = [make.pod("a", ip=""), make.pod("b", phase="Succeeded")]
    assert "subsets" not in endpoints_for(make.service(), pods)
    (piece,) = endpoint_slices_for(make.service(), pods)
    assert piece["endpoints"] == []


def test_a_leaving_pod_is_terminating_in_the_slice_and_absent_from_endpoints(make: Any) -> None:
    pods = [make.pod("a", deleting=True)]
    assert "subsets" not in endpoints_for(make.service(), pods)
    (piece,) = endpoint_slices_for(make.service(), pods)
    assert piece["endpoints"][0]["conditions"] == {"ready": False, "serving": True, "terminating": True}


def test_named_target_ports_are_looked_up_in_each_pod(make: Any) -> None:
    service = make.service({"name": "http", "port": 80, "targetPort": "web", "protocol": "TCP"})

    def pod(name: str, port: int) -> dict[str, Any]:
        containers = [{"name": "c", "ports": [{"name": "web", "containerPort": port}]}]
        return make.pod(name, spec={"containers": containers})

    pieces = endpoint_slices_for(service, [pod("a", 8080), pod("b", 9090), make.pod("c")])
    assert sorted(p["ports"][0]["port"] for p in pieces) == [8080, 9090]
    assert len({p["metadata"]["name"] for p in pieces}) == 2


def test_publish_not_ready_addresses_makes_everybody_ready(make: Any) -> None:
    endpoints = endpoints_for(make.service(publishNotReadyAddresses=True), [make.pod("a", ready=False)])
    assert endpoints["subsets"][0]["addresses"][0]["ip"] == "127.65.0.2"


def test_slice_names_do_not_depend_on_the_pods(make: Any) -> None:
    service = make.service()
    one = endpoint_slices_for(service, [make.pod("a")])[0]["metadata"]["name"]
    two = endpoint_slices_for(service, [make.pod("b"), make.pod("c")])[0]["metadata"]["name"]
    assert one == two
