"""What appears by itself: default accounts, the CA, endpoints, volumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest
from support.plane import ApiPlane, eventually

from agentops.kube.errors import NotFound
from agentops.kube.kinds import CONFIG_MAP, ENDPOINT_SLICE, ENDPOINTS, POD, PV, PVC, SERVICE, SERVICE_ACCOUNT

pytestmark = pytest.mark.anyio


def pod(name: str, labels: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "ns", "labels": labels or {}},
        "spec": {"containers": [{"name": "c", "image": "agentops:1"}], "terminationGracePeriodSeconds": 0, **spec},
    }


async def test_account_and_ca_are_made_again_when_deleted(plane: ApiPlane) -> None:
    await plane.client.delete(SERVICE_ACCOUNT, "default", "ns")
    await eventually(lambda: plane.client.get(SERVICE_ACCOUNT, "default", "ns"))

    async def restored() -> bool:
        return (await plane.client.get(CONFIG_MAP, "kube-root-ca.crt", "ns"))["data"] == {"ca.crt": "test ca"}

    await eventually(restored)
    await plane.client.patch(CONFIG_MAP, "kube-root-ca.crt", {"data": {"ca.crt": "forged"}}, "ns")
    await eventually(restored)


async def test_endpoints_follow_readiness(plane: ApiPlane) -> None:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "ns"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 4096}]},
    }
    await plane.client.create(SERVICE, service)
    await plane.client.create(POD, pod("a", {"app": "web"}))
    await plane.set_pod("ns", "a", ready=False, ip="127.65.0.7")

    async def addresses(field: str) -> Any:
        endpoints = await plane.client.get(ENDPOINTS, "web", "ns")
        return [a["ip"] for s in endpoints.get("subsets") or () for a in s.get(field) or ()]

    async def has(field: str, *wanted: str) -> bool:
        return await addresses(field) == list(wanted)

    await eventually(lambda: has("notReadyAddresses", "127.65.0.7"))
    await plane.set_pod("ns", "a", ready=True, ip="127.65.0.7")
    await eventually(lambda: has("addresses", "127.65.0.7"))
    (piece,) = await plane.client.list(ENDPOINT_SLICE, "ns", labels="kubernetes.io/service-name=web")
    assert piece["endpoints"][0]["conditions"]["ready"]
    assert piece["ports"][0]["port"] == 4096
    await plane.client.patch(POD, "a", {"metadata": {"labels": {"app": "other"}}}, "ns")
    await eventually(lambda: has("addresses"))
    await plane.client.delete(SERVICE, "web", "ns")

    async def gone() -> bool:
        slices = await plane.client.list(ENDPOINT_SLICE, "ns")
        return not slices and not await plane.client.list(ENDPOINTS, "ns")

    await eventually(gone)


async def test_endpoints_written_by_hand_are_mirrored_to_a_slice(plane: ApiPlane) -> None:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "db", "namespace": "ns"},
        "spec": {"ports": [{"port": 5432}]},
    }
    await plane.client.create(SERVICE, service)
    by_hand = {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {
            "name": "db",
            "namespace": "ns",
            "labels": {"app": "db"},
            "annotations": {"who": "me", "kubectl.kubernetes.io/last-applied-configuration": "{}"},
        },
        "subsets": [
            {
                "addresses": [{"ip": "10.1.2.3", "hostname": "one"}, {"ip": "fd00::1"}],
                "notReadyAddresses": [{"ip": "10.1.2.4"}],
                "ports": [{"port": 5432}],
            }
        ],
    }
    owner = await plane.client.create(ENDPOINTS, by_hand)

    async def slices(*families: str) -> dict[str, dict[str, Any]]:
        found = await plane.client.list(ENDPOINT_SLICE, "ns", labels="kubernetes.io/service-name=db")
        by_family = {s["addressType"]: s for s in found}
        return by_family if sorted(by_family) == sorted(families) else {}

    found = await eventually(lambda: slices("IPv4", "IPv6"))
    piece = found["IPv4"]
    assert piece["endpoints"] == [
        {"addresses": ["10.1.2.3"], "conditions": {"ready": True}, "hostname": "one"},
        {"addresses": ["10.1.2.4"], "conditions": {"ready": False}},
    ]
    assert piece["ports"] == [{"name": "", "port": 5432, "protocol": "TCP"}]
    meta = piece["metadata"]
    assert meta["labels"] == {
        "app": "db",
        "kubernetes.io/service-name": "db",
        "endpointslice.kubernetes.io/managed-by": "endpointslicemirroring-controller.k8s.io",
    }
    assert meta["annotations"] == {"who": "me"}
    (reference,) = meta["ownerReferences"]
    assert (reference["kind"], reference["uid"]) == ("Endpoints", owner["metadata"]["uid"])
    fewer = {"subsets": [{"addresses": [{"ip": "10.1.2.9"}], "ports": [{"port": 5432}]}]}
    await plane.client.patch(ENDPOINTS, "db", fewer, "ns")

    async def followed() -> bool:
        left = await slices("IPv4")
        return bool(left) and [e["addresses"] for e in left["IPv4"]["endpoints"]] == [["10.1.2.9"]]

    await eventually(followed)
    skip = {"metadata": {"labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}}}
    await plane.client.patch(ENDPOINTS, "db", skip, "ns")

    async def none_left() -> bool:
        return not await plane.client.list(ENDPOINT_SLICE, "ns")

    await eventually(none_left)


def claim(name: str = "data") -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": "ns"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }


VOLUMES = [{"name": "d", "persistentVolumeClaim": {"claimName": "data"}}]


async def bound(plane: ApiPlane) -> Any:
    found = await plane.client.get(PVC, "data", "ns")
    return found if found["status"].get("phase") == "Bound" else None


async def test_a_claim_waits_for_its_first_pod_and_gets_a_directory(plane: ApiPlane) -> None:
    created = await plane.client.create(PVC, claim())
    await anyio.sleep(0.2)
    assert (await plane.client.get(PVC, "data", "ns"))["status"]["phase"] == "Pending"
    assert await plane.client.list(PV) == []
    await plane.client.create(POD, pod("user", volumes=VOLUMES))
    done = await eventually(lambda: bound(plane))
    assert done["spec"]["storageClassName"] == "local-path"
    assert done["status"]["capacity"] == {"storage": "1Gi"}
    volume = await plane.client.get(PV, done["spec"]["volumeName"])
    assert volume["spec"]["claimRef"]["uid"] == created["metadata"]["uid"]
    assert volume["status"]["phase"] == "Bound"
    assert await anyio.Path(volume["spec"]["hostPath"]["path"]).is_dir()


async def test_a_used_claim_outlives_its_deletion_and_then_takes_its_directory_along(plane: ApiPlane) -> None:
    await plane.client.create(PVC, claim())
    await plane.client.create(POD, pod("user", volumes=VOLUMES))
    done = await eventually(lambda: bound(plane))
    volume = await plane.client.get(PV, done["spec"]["volumeName"])
    directory = Path(volume["spec"]["hostPath"]["path"])
    locked = directory / "locked"
    locked.mkdir()
    (locked / "file").write_text("x")
    (directory / "link").symlink_to("/etc")
    locked.chmod(0o000)
    await plane.client.delete(PVC, "data", "ns")
    await anyio.sleep(0.2)
    leaving = await plane.client.get(PVC, "data", "ns")
    assert leaving["metadata"]["deletionTimestamp"], "the claim went although a pod uses it"
    await plane.client.delete(POD, "user", "ns")

    async def all_gone() -> bool:
        try:
            await plane.client.get(PVC, "data", "ns")
        except NotFound:
            return not await plane.client.list(PV) and not directory.exists()
        return False

    await eventually(all_gone)


async def test_retained_volumes_are_released_with_their_data(plane: ApiPlane) -> None:
    await plane.client.create(PVC, claim())
    await plane.client.create(POD, pod("user", volumes=VOLUMES))
    done = await eventually(lambda: bound(plane))
    name = done["spec"]["volumeName"]
    await plane.client.patch(PV, name, {"spec": {"persistentVolumeReclaimPolicy": "Retain"}})
    await plane.client.delete(POD, "user", "ns")
    await plane.client.delete(PVC, "data", "ns")

    async def released() -> Any:
        volume = await plane.client.get(PV, name)
        return volume if volume["status"]["phase"] == "Released" else None

    volume = await eventually(released)
    assert Path(volume["spec"]["hostPath"]["path"]).is_dir()
