"""Garbage collection and namespace deletion against the API server, custom resources included."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from support.plane import ApiPlane, eventually

from agentops.kube.errors import NotFound
from agentops.kube.kinds import CONFIG_MAP, CRD, EVENT, NAMESPACE, SECRET
from agentops.values.kinds import Kind

pytestmark = pytest.mark.anyio

WIDGET = Kind("example.com", "v1", "Widget", "widgets")
WIDGET_CRD = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "widgets.example.com"},
    "spec": {
        "group": "example.com",
        "scope": "Namespaced",
        "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {"spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
                    }
                },
            }
        ],
    },
}


def config_map(name: str, *owners: dict[str, Any], namespace: str = "ns", **meta: Any) -> dict[str, Any]:
    refs = [
        {
            "apiVersion": o["apiVersion"],
            "kind": o["kind"],
            "name": o["metadata"]["name"],
            "uid": o["metadata"]["uid"],
            "blockOwnerDeletion": True,
        }
        for o in owners
    ]
    metadata = {"name": name, "namespace": namespace, "ownerReferences": refs, **meta}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}


async def make(plane: ApiPlane, name: str, *owners: dict[str, Any], **more: Any) -> dict[str, Any]:
    return await plane.client.create(CONFIG_MAP, config_map(name, *owners, **more))


async def exists(plane: ApiPlane, name: str, namespace: str = "ns") -> bool:
    try:
        await plane.client.get(CONFIG_MAP, name, namespace)
    except NotFound:
        return False
    return True


async def gone(plane: ApiPlane, *names: str) -> None:
    async def check() -> bool:
        return not any([await exists(plane, name) for name in names])

    await eventually(check)


async def install_widgets(plane: ApiPlane) -> None:
    await plane.client.create(CRD, WIDGET_CRD)

    async def served() -> bool:
        await plane.client.list(WIDGET, "ns")
        return True

    await eventually(served)


async def test_dependents_go_with_their_last_owner(plane: ApiPlane) -> None:
    one, two = await make(plane, "one"), await make(plane, "two")
    await make(plane, "child", one, two)
    await plane.client.delete(CONFIG_MAP, "one", "ns")

    async def owner_dropped() -> bool:
        child = await plane.client.get(CONFIG_MAP, "child", "ns")
        return [r["name"] for r in child["metadata"]["ownerReferences"]] == ["two"]

    await eventually(owner_dropped)
    await plane.client.delete(CONFIG_MAP, "two", "ns")
    await gone(plane, "child")


async def test_a_new_object_of_the_old_name_does_not_keep_a_dependent(plane: ApiPlane) -> None:
    owner = await make(plane, "owner")
    await plane.client.delete(CONFIG_MAP, "owner", "ns")
    await make(plane, "owner")
    await make(plane, "child", owner)
    await gone(plane, "child")
    assert await exists(plane, "owner")


async def test_foreground_deletion_waits_for_dependents_held_by_a_finalizer(plane: ApiPlane) -> None:
    owner = await make(plane, "owner")
    await make(plane, "child", owner, finalizers=["example.com/hold"])
    await plane.client.delete(CONFIG_MAP, "owner", "ns", propagation="Foreground")

    async def child_leaving() -> bool:
        child = await plane.client.get(CONFIG_MAP, "child", "ns")
        return bool(child["metadata"].get("deletionTimestamp"))

    await eventually(child_leaving)
    await anyio.sleep(0.2)
    assert await exists(plane, "owner"), "the owner went before its dependent"
    await plane.client.patch(CONFIG_MAP, "child", {"metadata": {"finalizers": None}}, "ns")
    await gone(plane, "owner", "child")


async def test_orphaning_keeps_the_dependents_without_owner(plane: ApiPlane) -> None:
    owner = await make(plane, "owner")
    await make(plane, "child", owner)
    await plane.client.delete(CONFIG_MAP, "owner", "ns", propagation="Orphan")
    await gone(plane, "owner")
    child = await plane.client.get(CONFIG_MAP, "child", "ns")
    assert not child["metadata"].get("ownerReferences")


async def test_chains_are_deleted_to_the_end(plane: ApiPlane) -> None:
    previous = await make(plane, "c0")
    for n in range(1, 5):
        previous = await make(plane, f"c{n}", previous)
    await plane.client.delete(CONFIG_MAP, "c0", "ns", propagation="Foreground")
    await gone(plane, *(f"c{n}" for n in range(5)))


async def test_an_owner_in_another_namespace_counts_as_absent_and_is_told(plane: ApiPlane) -> None:
    await plane.client.create(NAMESPACE, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "other"}})
    owner = await make(plane, "owner", namespace="other")
    await make(plane, "child", owner)
    await gone(plane, "child")
    assert await exists(plane, "owner", "other")

    async def told() -> bool:
        return any(e["reason"] == "OwnerRefInvalidNamespace" for e in await plane.client.list(EVENT, "ns"))

    await eventually(told)


async def test_custom_resources_own_and_are_owned(plane: ApiPlane) -> None:
    await install_widgets(plane)
    widget = await plane.client.create(
        WIDGET, {"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w", "namespace": "ns"}}
    )
    await make(plane, "child", widget)
    await plane.client.delete(WIDGET, "w", "ns")
    await gone(plane, "child")
    owner = await make(plane, "owner")
    child = {
        "apiVersion": "example.com/v1",
        "kind": "Widget",
        "metadata": {**config_map("w2", owner)["metadata"]},
    }
    await plane.client.create(WIDGET, child)
    await plane.client.delete(CONFIG_MAP, "owner", "ns")

    async def widget_gone() -> bool:
        return not await plane.client.list(WIDGET, "ns")

    await eventually(widget_gone)


async def test_deleting_a_crd_takes_what_its_objects_owned(plane: ApiPlane) -> None:
    await install_widgets(plane)
    widget = await plane.client.create(
        WIDGET, {"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w", "namespace": "ns"}}
    )
    await make(plane, "child", widget)
    await plane.client.delete(CRD, "widgets.example.com")
    await gone(plane, "child")


async def test_a_deleted_namespace_empties_itself_and_ends(plane: ApiPlane) -> None:
    await install_widgets(plane)
    await make(plane, "one")
    await make(plane, "held", finalizers=["example.com/hold"])
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "ns"}}
    await plane.client.create(SECRET, secret)
    await plane.client.create(
        WIDGET, {"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w", "namespace": "ns"}}
    )
    await plane.client.delete(NAMESPACE, "ns")

    async def waiting_for_the_finalizer() -> bool:
        namespace = await plane.client.get(NAMESPACE, "ns")
        conditions = {c["type"]: c for c in namespace["status"].get("conditions", ())}
        remaining = conditions.get("NamespaceFinalizersRemaining", {})
        return (
            namespace["status"]["phase"] == "Terminating"
            and conditions.get("NamespaceContentRemaining", {}).get("message")
            == "Some resources are remaining: configmaps. has 1 resource instances"
            and "example.com/hold in 1 resource instances" in remaining.get("message", "")
        )

    await eventually(waiting_for_the_finalizer)
    assert not await plane.client.list(WIDGET, "ns")
    assert not await plane.client.list(SECRET, "ns")
    await plane.client.patch(CONFIG_MAP, "held", {"metadata": {"finalizers": None}}, "ns")

    async def ended() -> bool:
        return "ns" not in {n["metadata"]["name"] for n in await plane.client.list(NAMESPACE)}

    await eventually(ended)
