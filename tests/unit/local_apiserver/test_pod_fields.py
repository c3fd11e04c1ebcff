"""What no kubelet could act on, or must not, is refused when the pod is created."""

from __future__ import annotations

from typing import Any

import pytest
from support.apiserver import PODS, Api, pod

pytestmark = pytest.mark.anyio


async def refusal(api: Api, *, volume: Any = None, **container: Any) -> str:
    body = pod("p", volumes=[{"name": "v", **(volume or {"emptyDir": {}})}])
    body["spec"]["containers"][0] |= container
    reply = await api.post(PODS, body)
    assert reply.status == 422, reply.body
    return reply.message


@pytest.mark.parametrize("sub_path", ["../x", "/etc", "a/../../b", "..x"])
async def test_a_sub_path_stays_in_its_volume(api: Api, sub_path: str) -> None:
    mount = {"name": "v", "mountPath": "/v", "subPath": sub_path}
    assert "spec.containers[0].volumeMounts[0].subPath" in await refusal(api, volumeMounts=[mount])


@pytest.mark.parametrize(
    ("volume", "field"),
    [
        ({"configMap": {"name": "c", "items": [{"key": "a", "path": "../x"}]}}, "configMap.items[0].path"),
        ({"secret": {"secretName": "c", "items": [{"key": "a", "path": "/x"}]}}, "secret.items[0].path"),
        (
            {"projected": {"sources": [{"configMap": {"name": "c", "items": [{"key": "a", "path": "../x"}]}}]}},
            "projected.sources[0].configMap.items[0].path",
        ),
        (
            {"projected": {"sources": [{"serviceAccountToken": {"path": "/etc/x"}}]}},
            "projected.sources[0].serviceAccountToken.path",
        ),
        ({"hostPath": {"path": "/a/../etc"}}, "hostPath.path"),
    ],
)
async def test_the_files_of_a_volume_stay_in_it(api: Api, volume: Any, field: str) -> None:
    assert f"spec.volumes[0].{field}" in await refusal(api, volume=volume)


@pytest.mark.parametrize(
    ("probe", "field"),
    [
        ({"httpGet": {"port": 99999999}}, "httpGet.port"),
        ({"tcpSocket": {"port": 0}}, "tcpSocket.port"),
        ({"exec": {"command": []}}, "exec.command"),
        ({}, "must specify a handler type"),
        ({"exec": {"command": ["a"]}, "tcpSocket": {"port": 1}}, "may not specify more than 1 handler type"),
        ({"exec": {"command": ["a"]}, "periodSeconds": -1}, "periodSeconds"),
        ({"exec": {"command": ["a"]}, "successThreshold": 2}, "successThreshold"),
    ],
)
async def test_a_probe_can_be_asked(api: Api, probe: Any, field: str) -> None:
    message = await refusal(api, livenessProbe=probe)
    assert "spec.containers[0].livenessProbe" in message
    assert field in message


async def test_a_negative_grace_is_a_second_and_an_endless_one_is_refused(api: Api) -> None:
    created = await api.post(PODS, pod("p", terminationGracePeriodSeconds=-5))
    assert created.body["spec"]["terminationGracePeriodSeconds"] == 1
    refused = await api.post(PODS, pod("q", terminationGracePeriodSeconds=10**18))
    assert "spec.terminationGracePeriodSeconds" in refused.message


async def test_a_resource_field_has_the_divisor_that_typed_clients_write_back(api: Api) -> None:
    resource = {"containerName": "c", "resource": "limits.cpu"}
    body = pod("p", volumes=[{"name": "v", "downwardAPI": {"items": [{"path": "cpu", "resourceFieldRef": resource}]}}])
    body["spec"]["containers"][0]["env"] = [{"name": "CPU", "valueFrom": {"resourceFieldRef": resource}}]
    made = (await api.post(PODS, body)).body["spec"]
    assert made["containers"][0]["env"][0]["valueFrom"]["resourceFieldRef"]["divisor"] == "0"
    volume = next(v for v in made["volumes"] if v["name"] == "v")
    assert volume["downwardAPI"]["items"][0]["resourceFieldRef"]["divisor"] == "0"
