"""What a DaemonSet does next, and how long a failed daemon stays."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from agentops.local.controllers.daemons import DaemonStep, plan, target_node, tolerations_for, verdict
from agentops.local.controllers.daemonset import FailureBackoff


def daemon_set(make: Any, *, pod: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    template = {"metadata": {"labels": {"app": "log"}}, "spec": {"containers": [{"name": "c"}], **(pod or {})}}
    return {"metadata": make.meta("log"), "spec": {"template": template, **spec}}


def rolling(**fields: Any) -> dict[str, Any]:
    return {"type": "RollingUpdate", "rollingUpdate": fields}


def node(name: str, *effects: str, **labels: str) -> dict[str, Any]:
    taints = [{"key": "k", "effect": effect} for effect in effects]
    return {"metadata": {"name": name, "labels": labels}, "spec": {"taints": taints}}


def daemon(make: Any, on: str, revision: str = "new", **fields: Any) -> dict[str, Any]:
    labels = {"app": "log", "controller-revision-hash": revision}
    pod: dict[str, Any] = make.pod(f"{revision}-{on}", labels=labels, spec={"nodeName": on}, **fields)
    return pod


def step(make: Any, daemons: dict[str, Any], nodes: list[Any], pods: list[Any], **more: Any) -> DaemonStep:
    return plan(daemons, nodes, pods, revision_hash="new", now=make.now, **more)


def names(pods: list[dict[str, Any]]) -> list[str]:
    return [pod["metadata"]["name"] for pod in pods]


@pytest.mark.parametrize(
    ("pod", "there", "run", "stay"),
    [
        ({}, node("a"), True, True),
        ({"nodeName": "a"}, node("a"), True, True),
        ({"nodeName": "b"}, node("a"), False, False),
        ({"nodeSelector": {"disk": "ssd"}}, node("a", disk="hdd"), False, False),
        ({}, node("a", "NoSchedule"), False, True),
        ({}, node("a", "NoSchedule", "NoExecute"), False, False),
        ({}, node("a", "PreferNoSchedule"), True, True),
        ({"tolerations": [{"operator": "Exists"}]}, node("a", "NoSchedule", "NoExecute"), True, True),
    ],
)
def test_a_node_says_whether_a_daemon_may_come_and_stay(make: Any, pod: Any, there: Any, run: bool, stay: bool) -> None:
    says = verdict(daemon_set(make, pod=pod), there)
    assert (says.run, says.stay) == (run, stay)


def test_a_toleration_with_a_time_does_not_weaken_the_standard_one() -> None:
    own = {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}
    assert [t for t in tolerations_for({"tolerations": [own]}) if t["key"] == own["key"]] == [
        {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"}
    ]


def test_a_pod_that_says_nothing_of_a_node_is_nobodys() -> None:
    required = {"nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "Exists"}]}]}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
    assert target_node({"spec": {"affinity": affinity}}) == ""


def test_a_failed_pod_is_held_and_nothing_comes_in_its_place_even_with_max_surge(make: Any) -> None:
    for strategy in (rolling(maxUnavailable=1, maxSurge=0), rolling(maxUnavailable=0, maxSurge=1)):
        daemons = daemon_set(make, updateStrategy=strategy)
        failed = daemon(make, "a", phase="Failed")
        held = step(make, daemons, [node("a")], [failed], held_s=lambda _: 8.0)
        assert (held.changes_pods, held.events, held.requeue_after_s) == (False, [], 8.0)
        released = step(make, daemons, [node("a")], [failed])
        assert names(released.deletes) == ["new-a"]
        assert released.failed == ["a"]


def test_with_max_surge_what_ended_is_replaced_once_and_what_never_worked_goes_when_another_comes(make: Any) -> None:
    daemons = daemon_set(make, updateStrategy=rolling(maxUnavailable=0, maxSurge=1))
    ended = step(make, daemons, [node("a")], [daemon(make, "a", "old", phase="Failed")])
    assert (names(ended.deletes), ended.create) == (["old-a"], ["a"])
    both = [daemon(make, "a", "old", ready=False), daemon(make, "a", ready=False)]
    assert names(step(make, daemons, [node("a")], both).deletes) == ["old-a"]


def test_the_pod_of_a_node_that_left_is_lost_once(make: Any) -> None:
    pod = daemon(make, "gone")
    assert names(step(make, daemon_set(make), [], [pod]).lost) == ["new-gone"]
    pod["metadata"] |= {"deletionTimestamp": make.stamp(), "deletionGracePeriodSeconds": 30}
    assert names(step(make, daemon_set(make), [], [pod]).lost) == ["new-gone"], "nobody else ends it"
    pod["metadata"]["deletionGracePeriodSeconds"] = 0
    assert step(make, daemon_set(make), [], [pod]).lost == []


def test_of_two_pods_on_a_node_the_older_stays(make: Any) -> None:
    young = daemon(make, "a", creationTimestamp=make.stamp(-5))
    old = daemon(make, "a", creationTimestamp=make.stamp(-50))
    young["metadata"]["name"] = "a-young"
    assert names(step(make, daemon_set(make), [node("a")], [young, old]).deletes) == ["a-young"]


def test_with_max_surge_a_node_that_takes_no_new_pods_serves_until_the_others_do(make: Any) -> None:
    daemons = daemon_set(make, updateStrategy=rolling(maxUnavailable=0, maxSurge=1))
    closed = [node("a"), node("b", "NoSchedule")]
    old = daemon(make, "b", "old")
    assert names(step(make, daemons, closed, [daemon(make, "a", ready=False), old]).deletes) == []
    assert names(step(make, daemons, closed, [daemon(make, "a"), old]).deletes) == ["old-b"]
    broken = daemon(make, "b", "old", ready=False)
    assert names(step(make, daemons, closed, [daemon(make, "a", ready=False), broken]).deletes) == ["old-b"]


def test_the_next_wake_up_is_when_the_first_pod_becomes_available(make: Any) -> None:
    daemons = daemon_set(make, minReadySeconds=100)
    found = step(make, daemons, [node("a")], [daemon(make, "a")])  # ready for 60 s
    assert found.requeue_after_s == 40
    assert found.status["numberReady"] == found.status["numberUnavailable"] == 1
    assert "numberAvailable" not in found.status


class HandClock:
    """Boot time by hand."""

    def __init__(self) -> None:
        self.at_s = 1000.0

    def boottime(self) -> float:
        return self.at_s

    def now(self) -> datetime:
        raise AssertionError("pauses are not measured by the wall clock")

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nobody sleeps here")


def test_the_pause_after_failures_doubles_to_a_quarter_of_an_hour_and_is_forgotten_after_half_an_hour() -> None:
    clock = HandClock()
    backoff = FailureBackoff(clock)
    key = ("uid", "a")
    pauses = []
    for _ in range(12):
        assert backoff.wait_s(key) == 0
        backoff.note(key)
        pauses.append(backoff.wait_s(key))
        assert backoff.wait_s(("uid", "b")) == 0, "each node has its own"
        clock.at_s += pauses[-1]
    assert pauses == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900]
    clock.at_s += 1800
    backoff.note(key)
    assert backoff.wait_s(key) == 1
