"""The garbage collector's graph and rulings."""

from __future__ import annotations

from agentops.kube.kinds import CONFIG_MAP, DEPLOYMENT, POD, REPLICA_SET
from agentops.local.controllers.ownership import (
    Action,
    Graph,
    Node,
    OwnerRef,
    OwnerState,
    decide,
    decide_deleting,
)


def ref(name: str, uid: str, *, block: bool = True) -> OwnerRef:
    return OwnerRef("apps/v1", "ReplicaSet", name, uid, block)


OWNER = Node(REPLICA_SET, "ns", "rs", "u-rs")
CHILD = Node(POD, "ns", "pod", "u-pod", owners=(ref("rs", "u-rs"),))


def gone(node: Node, *finalizers: str) -> Node:
    return Node(node.kind, node.namespace, node.name, node.uid, node.owners, True, finalizers)


def test_deleting_an_owner_makes_its_dependents_be_looked_at() -> None:
    graph = Graph()
    graph.observe(OWNER)
    assert graph.observe(CHILD) == []
    assert graph.forget("u-rs") == ["u-pod"]
    assert graph.is_absent("u-rs")


def test_a_child_that_arrives_before_or_without_its_owner_is_looked_at() -> None:
    assert Graph().observe(CHILD) == ["u-pod"]


def test_an_owner_of_the_same_name_with_another_uid_is_a_stranger() -> None:
    graph = Graph()
    graph.observe(Node(REPLICA_SET, "ns", "rs", "another"))
    assert graph.observe(CHILD) == ["u-pod"]


def test_an_owner_in_another_namespace_is_suspicious() -> None:
    graph = Graph()
    graph.observe(Node(REPLICA_SET, "elsewhere", "rs", "u-rs"))
    assert graph.observe(CHILD) == ["u-pod"]


def test_foreground_deletion_looks_at_owner_and_dependents_and_ends_with_the_last_one() -> None:
    graph = Graph()
    graph.observe(OWNER)
    graph.observe(CHILD)
    waiting = gone(OWNER, "foregroundDeletion")
    assert graph.observe(waiting) == ["u-rs", "u-pod"]
    decision = decide_deleting(waiting, graph.dependents("u-rs"))
    assert decision is not None
    assert (decision.action, decision.look_at) == (Action.WAIT_FOR_DEPENDENTS, ["u-pod"])
    assert graph.forget("u-pod") == ["u-rs"]
    decision = decide_deleting(waiting, graph.dependents("u-rs"))
    assert decision is not None
    assert decision.action is Action.RELEASE


def test_dependents_that_do_not_block_do_not_hold_the_owner() -> None:
    child = Node(POD, "ns", "pod", "u-pod", owners=(ref("rs", "u-rs", block=False),))
    decision = decide_deleting(gone(OWNER, "foregroundDeletion"), [child])
    assert decision is not None
    assert decision.action is Action.RELEASE


def test_dropping_the_blocking_flag_wakes_a_waiting_owner() -> None:
    graph = Graph()
    graph.observe(gone(OWNER, "foregroundDeletion"))
    graph.observe(CHILD)
    child = Node(POD, "ns", "pod", "u-pod", owners=(ref("rs", "u-rs", block=False),))
    assert graph.observe(child) == ["u-rs"]


def test_orphan_finalizer_asks_to_strip_the_dependents() -> None:
    graph = Graph()
    graph.observe(OWNER)
    orphaning = gone(OWNER, "orphan")
    assert graph.observe(orphaning) == ["u-rs"]
    decision = decide_deleting(orphaning, [CHILD])
    assert decision is not None
    assert decision.action is Action.ORPHAN_DEPENDENTS


def test_an_object_held_by_someone_elses_finalizer_is_left_alone() -> None:
    decision = decide_deleting(gone(OWNER, "example.com/hold"), [])
    assert decision is not None
    assert decision.action is Action.NOTHING


def test_all_owners_gone_means_delete_and_one_alive_means_keep() -> None:
    both = Node(CONFIG_MAP, "ns", "cm", "u-cm", owners=(ref("a", "u-a"), ref("b", "u-b")))
    assert decide(both, [], {"u-a": OwnerState.DANGLING, "u-b": OwnerState.DANGLING}).action is Action.DELETE
    kept = decide(both, [], {"u-a": OwnerState.DANGLING, "u-b": OwnerState.SOLID})
    assert (kept.action, kept.owners) == (Action.DROP_OWNERS, ["u-a"])
    assert decide(both, [], {"u-a": OwnerState.SOLID, "u-b": OwnerState.SOLID}).action is Action.NOTHING


def test_waiting_owners_delete_a_parent_in_the_foreground_and_a_leaf_in_the_background() -> None:
    states = {"u-d": OwnerState.WAITING}
    replica_set = Node(REPLICA_SET, "ns", "rs", "u-rs", owners=(OwnerRef("apps/v1", "Deployment", "d", "u-d", True),))
    assert decide(replica_set, [CHILD], states).propagation == "Foreground"
    assert decide(replica_set, [], states).propagation == "Background"


def test_a_circle_of_waiting_owners_is_opened() -> None:
    a = Node(DEPLOYMENT, "ns", "a", "u-a", owners=(OwnerRef("apps/v1", "Deployment", "b", "u-b", True),))
    b = Node(
        DEPLOYMENT,
        "ns",
        "b",
        "u-b",
        owners=(OwnerRef("apps/v1", "Deployment", "a", "u-a", True),),
        deleting=True,
        finalizers=("foregroundDeletion",),
    )
    assert decide(a, [b], {"u-b": OwnerState.WAITING}).unblock


def test_a_finalizer_that_was_there_before_decides_the_propagation() -> None:
    child = Node(POD, "ns", "pod", "u-pod", owners=CHILD.owners, finalizers=("orphan",))
    assert decide(child, [], {"u-rs": OwnerState.DANGLING}).propagation == "Orphan"


def test_objects_without_owners_are_none_of_its_business() -> None:
    assert decide(OWNER, [CHILD], {}).action is Action.NOTHING
