"""Owners, finalizers, conditions, expectations, health."""

from datetime import UTC, datetime, timedelta

import anyio
import pytest
from support.scripted_transport import ok, pod, status

from agentops.controller import AlreadyOwned, ControllerError, Expectations, Result
from agentops.controller.conditions import get_condition, is_true, remove_condition, set_condition
from agentops.controller.finalizers import (
    add_finalizer,
    drop_finalizer,
    ensure_finalizer,
    has_finalizer,
    remove_finalizer,
    with_finalizer,
)
from agentops.controller.health import Checks, render
from agentops.controller.owners import (
    controller_of,
    is_controlled_by,
    is_owned_by,
    remove_controller_reference,
    remove_owner_reference,
    set_controller_reference,
    set_owner_reference,
)
from agentops.kube.client import ApiClient
from agentops.kube.kinds import POD

pytestmark = pytest.mark.anyio

PATH = "/api/v1/namespaces/default/pods/a"
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def owner(name="o", uid="u1", api_version="apps/v1", namespace="default"):
    return {
        "apiVersion": api_version,
        "kind": "ReplicaSet",
        "metadata": {"name": name, "namespace": namespace, "uid": uid},
    }


# owners


@pytest.mark.guarantee("FU6")
def test_controller_reference_is_set_replaced_in_place_and_exclusive():
    obj = pod("a", 1)
    set_owner_reference(owner("plain", "u0"), obj)
    set_controller_reference(owner(), obj)
    set_controller_reference(owner(uid="u2", api_version="apps/v2"), obj)
    assert [r["name"] for r in obj["metadata"]["ownerReferences"]] == ["plain", "o"]
    assert controller_of(obj)["uid"] == "u2"
    assert controller_of(obj)["blockOwnerDeletion"] is True
    assert is_controlled_by(obj, owner(uid="u2"))
    assert not is_controlled_by(obj, owner(uid="u1"))
    assert is_owned_by(obj, owner("plain", "u0"))
    with pytest.raises(AlreadyOwned, match="Pod default/a is controlled by ReplicaSet o"):
        set_controller_reference(owner("someone-else", "u9"), obj)


@pytest.mark.guarantee("FU7")
def test_owner_of_another_namespace_is_refused():
    with pytest.raises(ControllerError, match="same namespace"):
        set_controller_reference(owner(namespace="elsewhere"), pod("a", 1))
    cluster_scoped = {"kind": "Node", "metadata": {"name": "n"}}
    with pytest.raises(ControllerError, match="cluster-scoped"):
        set_owner_reference(owner(), cluster_scoped)


@pytest.mark.guarantee("FU7")
def test_removing_a_reference_that_is_not_there_is_an_error():
    obj = pod("a", 1)
    set_owner_reference(owner(), obj)
    remove_owner_reference(owner(), obj)
    with pytest.raises(ControllerError, match="has no owner reference"):
        remove_owner_reference(owner(), obj)
    set_owner_reference(owner(), obj)
    with pytest.raises(ControllerError, match="is not controlled by"):
        remove_controller_reference(owner(), obj)
    set_controller_reference(owner(), obj)
    remove_controller_reference(owner(), obj)
    assert obj["metadata"]["ownerReferences"] == []


# finalizers


@pytest.mark.guarantee("FU1")
def test_finalizers_keep_the_order_of_others():
    obj = pod("a", 1, finalizers=["x", "y"])
    assert add_finalizer(obj, "me/key")
    assert not add_finalizer(obj, "me/key")
    assert remove_finalizer(obj, "x")
    assert not remove_finalizer(obj, "x")
    assert obj["metadata"]["finalizers"] == ["y", "me/key"]
    assert has_finalizer(obj, "y")


@pytest.mark.guarantee("FU5")
async def test_finalizer_writes_carry_the_version_they_were_computed_from(transport):
    client = ApiClient(transport)
    transport.on("PATCH", PATH, ok(pod("a", 8, finalizers=["x", "k"])))
    written = await ensure_finalizer(client, POD, pod("a", 7, finalizers=["x"]), "k")
    assert transport.sent("PATCH")[0].body == {"metadata": {"resourceVersion": "7", "finalizers": ["x", "k"]}}
    assert await ensure_finalizer(client, POD, written, "k") == written
    assert len(transport.sent("PATCH")) == 1


@pytest.mark.guarantee("FU3")
async def test_deleting_object_gets_no_finalizer(transport):
    obj = pod("a", 7, deletionTimestamp="2026-01-01T00:00:00Z")
    assert await ensure_finalizer(ApiClient(transport), POD, obj, "k") == obj
    assert not transport.requests


async def test_dropping_from_an_object_that_is_gone_is_fine(transport):
    transport.on("PATCH", PATH, status(404, "NotFound"))
    assert await drop_finalizer(ApiClient(transport), POD, pod("a", 7, finalizers=["k"]), "k") is None


@pytest.mark.guarantee("FU4")
async def test_apply_runs_only_with_the_key_written_and_cleanup_before_it_is_removed(transport):
    client = ApiClient(transport)
    order = []
    transport.on(
        "PATCH", PATH, lambda r: order.append(r.body["metadata"]["finalizers"]) or ok(pod("a", 8, finalizers=["k"]))
    )

    async def apply(obj):
        order.append("apply")
        assert has_finalizer(obj, "k")

    async def cleanup(obj):
        order.append("cleanup")
        return Result(requeue_after=5) if len(order) == 3 else None

    deleting = pod("a", 9, finalizers=["k"], deletionTimestamp="2026-01-01T00:00:00Z")
    await with_finalizer(client, POD, "k", pod("a", 7), apply, cleanup)
    await with_finalizer(client, POD, "k", deleting, apply, cleanup)
    assert order == [["k"], "apply", "cleanup"], "cleaning up asked to come back"
    await with_finalizer(client, POD, "k", deleting, apply, cleanup)
    assert order[3:] == ["cleanup", []]
    gone = pod("a", 9, deletionTimestamp="2026-01-01T00:00:00Z")
    await with_finalizer(client, POD, "k", gone, apply, cleanup)
    assert len(order) == 5


# conditions


def test_transition_time_moves_only_with_the_status():
    conditions = []
    assert set_condition(conditions, "Ready", False, "Waiting", "no pods", 1, NOW)
    assert not set_condition(conditions, "Ready", "False", "Waiting", "no pods", 1, NOW + timedelta(hours=1))
    assert set_condition(conditions, "Ready", "False", "Failing", "crash", 2, NOW + timedelta(hours=1))
    assert conditions[0]["lastTransitionTime"] == "2026-01-01T00:00:00Z"
    assert set_condition(conditions, "Ready", True, "Running", "", 2, NOW + timedelta(hours=2))
    assert conditions == [
        {
            "type": "Ready",
            "status": "True",
            "reason": "Running",
            "message": "",
            "observedGeneration": 2,
            "lastTransitionTime": "2026-01-01T02:00:00Z",
        }
    ]
    assert is_true(conditions, "Ready")
    assert get_condition(None, "Ready") is None
    assert remove_condition(conditions, "Ready")
    assert not remove_condition(conditions, "Ready")


def test_other_statuses_are_refused():
    with pytest.raises(ValueError, match="must be True, False or Unknown"):
        set_condition([], "Ready", "yes", "R", "", None, NOW)


# expectations


@pytest.mark.guarantee("RY12")
async def test_expectations_are_met_by_observations_and_expire(clock):
    expectations = Expectations(clock)
    assert expectations.satisfied("o")
    expectations.expect_creations("o", 2)
    expectations.creation_observed("o")
    assert not expectations.satisfied("o")
    expectations.creation_observed("o")
    expectations.creation_observed("o")
    assert expectations.satisfied("o")
    expectations.expect_creations("o", 1)
    await anyio.sleep(301)
    assert expectations.satisfied("o")
    assert len(expectations) == 0


# health


@pytest.mark.guarantee("HM1")
def test_probe_answers_name_checks_and_withhold_reasons():
    checks = Checks()
    assert render(checks.run(), verbose=False) == (200, "ok")
    checks.add("fine", lambda: None)
    checks.add("broken", lambda: "secret detail")
    checks.add("raises", lambda: 1 / 0)
    code, text = render(checks.run(), verbose=False)
    assert code == 500
    assert text.splitlines() == [
        "[+]fine ok",
        "[-]broken failed: reason withheld",
        "[-]raises failed: reason withheld",
        "healthz check failed",
    ]
    passed = render({"fine": None}, verbose=True, exclude=("nope",), probe="readyz")
    assert passed == (
        200,
        '[+]fine ok\nwarn: some health checks cannot be excluded: no matches for "nope"\nreadyz check passed\n',
    )
    assert "secret detail" in render(checks.run(), verbose=True)[1]
    assert render(checks.run(), verbose=False, exclude=("broken", "raises"))[0] == 200
    with pytest.raises(ValueError, match="already"):
        checks.add("fine", lambda: None)
