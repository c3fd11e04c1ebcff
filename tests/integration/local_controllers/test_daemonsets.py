"""DaemonSets against the API server; the tests play the nodes and their kubelets."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from support.plane import ApiPlane, api_plane, eventually

from agentops.kube.errors import Invalid
from agentops.kube.kinds import CONTROLLER_REVISION, DAEMON_SET, EVENT, NAMESPACE, NODE, POD, SERVICE_ACCOUNT

pytestmark = pytest.mark.anyio

DAEMON: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "DaemonSet",
    "metadata": {"name": "log", "namespace": "ns"},
    "spec": {
        "selector": {"matchLabels": {"app": "log"}},
        "template": {
            "metadata": {"labels": {"app": "log"}},
            "spec": {"containers": [{"name": "c", "image": "agentops:1"}], "terminationGracePeriodSeconds": 0},
        },
    },
}


def daemon(*, pod: dict[str, Any] | None = None, rolling: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    made = copy.deepcopy(DAEMON)
    made["spec"]["template"]["spec"] |= pod or {}
    if rolling is not None:
        made["spec"]["updateStrategy"] = {"type": "RollingUpdate", "rollingUpdate": rolling}
    made["spec"] |= spec
    return made


class Site:
    """A plane with nodes, and the daemons on them."""

    def __init__(self, plane: ApiPlane) -> None:
        self.plane = plane

    async def add(self, *names: str, taints: Any = (), **labels: str) -> None:
        for name in names:
            node = {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, **labels}},
                "spec": {"taints": list(taints)} if taints else {},
            }
            await self.plane.client.create(NODE, node)

    async def pods(self) -> dict[str, list[dict[str, Any]]]:
        """By the node that a pod is on or was made for."""
        found: dict[str, list[dict[str, Any]]] = {}
        for pod in await self.plane.client.list(POD, "ns", labels="app=log"):
            found.setdefault(node_of(pod), []).append(pod)
        return found

    async def on(self, *nodes: str) -> dict[str, dict[str, Any]]:
        """Once exactly these nodes have a pod each: the pods by node."""

        async def look() -> Any:
            found = await self.pods()
            assert {node: len(pods) for node, pods in found.items()} == dict.fromkeys(nodes, 1)
            return {node: pods[0] for node, pods in found.items()}

        return dict(await eventually(look)) if nodes else {}

    async def run(self, *nodes: str, ready: bool = True) -> dict[str, dict[str, Any]]:
        """Start the pods of these nodes, once there is one on each."""
        found = await self.on(*nodes)
        for node, pod in found.items():
            await self.start(pod, node, ready=ready)
        return found

    async def start(self, pod: dict[str, Any], node: str, *, phase: str = "Running", ready: bool = True) -> None:
        name = pod["metadata"]["name"]
        await self.plane.set_pod("ns", name, node=node, phase=phase, ready=ready and phase == "Running")

    async def status(self, **wanted: int) -> dict[str, Any]:
        """The status, once it is about the current spec and has these figures; 0 for absent ones."""

        async def look() -> Any:
            found = await self.plane.client.get(DAEMON_SET, "log", "ns")
            status = found.get("status") or {}
            assert status.get("observedGeneration") == found["metadata"]["generation"]
            assert {key: status.get(key, 0) for key in wanted} == wanted
            return status

        return dict(await eventually(look))

    async def change(self, number: int = 2, **spec: Any) -> None:
        """Another template."""
        template = {"metadata": {"annotations": {"n": str(number)}}}
        await self.plane.client.patch(DAEMON_SET, "log", {"spec": {"template": template, **spec}}, "ns")

    async def revisions(self) -> dict[int, dict[str, Any]]:
        found = await self.plane.client.list(CONTROLLER_REVISION, "ns")
        return {revision["revision"]: revision for revision in found}

    async def told(self, reason: str) -> str:
        """The message of an event about the set."""

        async def look() -> Any:
            found = await self.plane.client.list(EVENT, "ns", fields=f"reason={reason},involvedObject.kind=DaemonSet")
            return [event["message"] for event in found]

        return str((await eventually(look))[0])


@pytest.fixture
def site(plane: ApiPlane) -> Site:
    return Site(plane)


def node_of(pod: dict[str, Any]) -> str:
    terms = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    return str(terms["nodeSelectorTerms"][0]["matchFields"][0]["values"][0])


def name_of(obj: dict[str, Any]) -> str:
    return str(obj["metadata"]["name"])


async def test_every_node_gets_a_pod_also_one_that_comes_later(plane: ApiPlane, site: Site) -> None:
    await site.add("a", "b")
    made = await plane.client.create(DAEMON_SET, DAEMON)
    found = await site.run("a", "b")
    pod = found["a"]
    assert pod["metadata"]["generateName"] == "log-"
    [revision] = (await site.revisions()).values()
    assert pod["metadata"]["labels"] == {
        "app": "log",
        "controller-revision-hash": revision["metadata"]["labels"]["controller-revision-hash"],
        "pod-template-generation": "1",
    }
    owner = pod["metadata"]["ownerReferences"]
    assert [(o["kind"], o["uid"], o["controller"]) for o in owner] == [("DaemonSet", made["metadata"]["uid"], True)]
    assert pod["spec"]["affinity"]["nodeAffinity"] == {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a"]}]}]
        }
    }
    await site.add("late")
    await site.on("a", "b", "late")
    status = await site.status(currentNumberScheduled=3, numberReady=2)
    assert status == {
        "currentNumberScheduled": 3,
        "desiredNumberScheduled": 3,
        "numberAvailable": 2,
        "numberMisscheduled": 0,
        "numberReady": 2,
        "numberUnavailable": 1,
        "observedGeneration": 1,
        "updatedNumberScheduled": 3,
    }
    assert (await site.told("SuccessfulCreate")).startswith("Created pod: log-")


@pytest.mark.parametrize("host_network", [False, True])
async def test_daemons_tolerate_a_node_in_trouble(plane: ApiPlane, site: Site, host_network: bool) -> None:
    await site.add("a")
    own = {"key": "gpu", "operator": "Exists"}
    await plane.client.create(DAEMON_SET, daemon(pod={"hostNetwork": host_network, "tolerations": [own]}))
    tolerated = (await site.on("a"))["a"]["spec"]["tolerations"]
    assert own in tolerated
    assert not any("tolerationSeconds" in toleration for toleration in tolerated)
    assert {(t["key"].removeprefix("node.kubernetes.io/"), t["effect"]) for t in tolerated if t != own} == {
        ("not-ready", "NoExecute"),
        ("unreachable", "NoExecute"),
        ("disk-pressure", "NoSchedule"),
        ("memory-pressure", "NoSchedule"),
        ("pid-pressure", "NoSchedule"),
        ("unschedulable", "NoSchedule"),
        *([("network-unavailable", "NoSchedule")] if host_network else []),
    }


async def test_a_selector_and_affinity_choose_nodes_and_a_changed_label_moves_the_pod(
    plane: ApiPlane, site: Site
) -> None:
    await site.add("a", "b", disk="ssd")
    await site.add("c", disk="hdd")
    await site.add("d", disk="ssd", arch="arm")
    terms = [{"matchExpressions": [{"key": "arch", "operator": "DoesNotExist"}]}]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    pod = {"nodeSelector": {"disk": "ssd"}, "affinity": {"nodeAffinity": required}}
    await plane.client.create(DAEMON_SET, daemon(pod=pod))
    await site.run("a", "b")
    await plane.client.patch(NODE, "b", {"metadata": {"labels": {"disk": "hdd"}}})
    await plane.client.patch(NODE, "c", {"metadata": {"labels": {"disk": "ssd"}}})
    await site.on("a", "c")
    await site.status(desiredNumberScheduled=2, currentNumberScheduled=2, numberMisscheduled=0)
    assert (await site.told("SuccessfulDelete")).startswith("Deleted pod: log-")


async def test_a_taint_keeps_new_pods_away_and_only_noexecute_drives_the_old_one_out(
    plane: ApiPlane, site: Site
) -> None:
    await site.add("a", "b")
    await site.add("tainted", taints=[{"key": "gpu", "value": "yes", "effect": "NoSchedule"}])
    await plane.client.create(DAEMON_SET, DAEMON)
    await site.run("a", "b")
    await plane.client.patch(NODE, "b", {"spec": {"taints": [{"key": "full", "effect": "NoSchedule"}]}})
    await site.status(desiredNumberScheduled=1, currentNumberScheduled=1, numberMisscheduled=1, numberAvailable=1)
    await site.on("a", "b")
    await plane.client.patch(NODE, "b", {"spec": {"taints": [{"key": "bad", "effect": "NoExecute"}]}})
    await site.on("a")
    await site.status(numberMisscheduled=0)
    await plane.client.patch(NODE, "b", {"spec": {"taints": [{"key": "meh", "effect": "PreferNoSchedule"}]}})
    await site.on("a", "b")


async def test_a_cordoned_node_keeps_its_daemon_and_a_deleted_one_loses_it(plane: ApiPlane, site: Site) -> None:
    await site.add("a", "b", "unbound")
    await plane.client.create(DAEMON_SET, daemon(pod={"terminationGracePeriodSeconds": 600}))
    before = await site.on("a", "b", "unbound")
    await site.start(before["a"], "a")
    await site.start(before["b"], "b")
    await plane.client.patch(NODE, "a", {"spec": {"unschedulable": True}})
    await plane.client.delete(NODE, "b")
    await plane.client.delete(NODE, "unbound")
    after = await site.on("a")
    assert name_of(after["a"]) == name_of(before["a"])
    await site.status(desiredNumberScheduled=1, numberAvailable=1)


async def test_pods_that_have_ended_are_replaced(plane: ApiPlane, site: Site) -> None:
    await site.add("a")
    await plane.client.create(DAEMON_SET, DAEMON)
    seen: set[str] = set()

    async def another() -> Any:
        pod = (await site.on("a"))["a"]
        return None if name_of(pod) in seen else pod

    for phase in ("Succeeded", "Failed", "Failed", "Failed"):
        pod = await eventually(another)
        seen.add(name_of(pod))
        await site.start(pod, "a", phase=phase)
    await site.start(await eventually(another), "a")
    await site.status(numberAvailable=1)
    assert (await site.told("FailedDaemonPod")).startswith("Found failed daemon pod ns/log-")
    assert "on node a" in await site.told("SucceededDaemonPod")


async def test_a_pod_that_fails_again_stays_for_a_pause(tmp_path: Path) -> None:
    async with api_plane(tmp_path, backoff_scale=1000.0) as plane:
        await plane.client.create(NAMESPACE, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ns"}})
        await eventually(lambda: plane.client.get(SERVICE_ACCOUNT, "default", "ns"))
        site = Site(plane)
        await site.add("a")
        await plane.client.create(DAEMON_SET, DAEMON)
        first = (await site.run("a"))["a"]
        await site.start(first, "a", phase="Failed")

        async def second() -> Any:
            pod = (await site.on("a"))["a"]
            return pod if name_of(pod) != name_of(first) else None

        again = await eventually(second)
        await site.start(again, "a")
        await site.status(numberReady=1)
        await site.start(again, "a", phase="Failed")
        await site.status(numberReady=0)  # written after what was to be deleted was
        assert name_of((await site.on("a"))["a"]) == name_of(again)


async def test_orphans_are_adopted_strangers_let_go_and_surplus_pods_deleted(plane: ApiPlane, site: Site) -> None:
    await site.add("a", "b")
    await plane.client.create(DAEMON_SET, DAEMON)
    before = await site.run("a", "b")
    await plane.client.delete(DAEMON_SET, "log", "ns", propagation="Orphan")
    await eventually(lambda: orphaned(site))
    await plane.client.patch(POD, name_of(before["b"]), {"metadata": {"labels": {"kept": "b"}}}, "ns")
    again = await plane.client.create(DAEMON_SET, DAEMON)
    await site.status(numberAvailable=2, updatedNumberScheduled=2)
    after = await site.on("a", "b")
    assert {node: name_of(pod) for node, pod in after.items()} == {n: name_of(pod) for n, pod in before.items()}
    [revision] = (await site.revisions()).values()
    for child in (*after.values(), revision):
        assert child["metadata"]["ownerReferences"][0]["uid"] == again["metadata"]["uid"]
    await plane.client.patch(POD, name_of(after["b"]), {"metadata": {"labels": {"app": "other"}}}, "ns")

    async def replaced() -> bool:
        return name_of((await site.on("a", "b"))["b"]) != name_of(after["b"])

    await eventually(replaced)
    released = await plane.client.get(POD, name_of(after["b"]), "ns")
    assert not released["metadata"].get("ownerReferences")
    await plane.client.patch(POD, name_of(after["b"]), {"metadata": {"labels": {"app": "log"}}}, "ns")
    await eventually(lambda: site.on("a", "b"))


async def orphaned(site: Site) -> bool:
    """The set is gone, and nothing of it has an owner any more."""
    if await site.plane.client.list(DAEMON_SET, "ns"):
        return False
    children = [*(p for pods in (await site.pods()).values() for p in pods), *(await site.revisions()).values()]
    return not any(child["metadata"].get("ownerReferences") for child in children)


@pytest.mark.parametrize(
    ("allowed", "at_once"), [(1, 1), (2, 2), ("34%", 2), ("100%", 4)], ids=["one", "two", "rounded-up", "all"]
)
async def test_a_rolling_update_takes_away_as_many_as_may_be_missing(
    plane: ApiPlane, site: Site, allowed: Any, at_once: int
) -> None:
    nodes = ("a", "b", "c", "d")
    await site.add(*nodes)
    await plane.client.create(DAEMON_SET, daemon(rolling={"maxUnavailable": allowed}))
    old = await site.run(*nodes)
    await site.status(numberAvailable=4)
    await site.change()
    for done in range(at_once, 5, at_once):
        status = await site.status(updatedNumberScheduled=done, numberUnavailable=at_once)
        assert status["desiredNumberScheduled"] == 4
        for node, pod in (await site.on(*nodes)).items():
            if name_of(pod) != name_of(old[node]):
                await site.start(pod, node)
    await site.status(updatedNumberScheduled=4, numberAvailable=4, numberUnavailable=0)
    new = await site.on(*nodes)
    assert {pod["metadata"]["labels"]["pod-template-generation"] for pod in new.values()} == {"2"}


async def test_old_pods_that_do_not_work_are_replaced_at_once(plane: ApiPlane, site: Site) -> None:
    nodes = ("a", "b", "c")
    await site.add(*nodes)
    await plane.client.create(DAEMON_SET, daemon(rolling={"maxUnavailable": 1}))
    old = await site.on(*nodes)
    for node in nodes:
        await site.start(old[node], node, ready=node == "a")
    await site.status(numberReady=1)
    await site.change()
    await site.status(updatedNumberScheduled=2)
    new = await site.on(*nodes)
    assert [node for node in nodes if name_of(new[node]) == name_of(old[node])] == ["a"], "the one that works stays"


async def test_with_max_surge_the_new_pod_is_available_before_the_old_one_goes(plane: ApiPlane, site: Site) -> None:
    await site.add("a", "b")
    await plane.client.create(DAEMON_SET, daemon(rolling={"maxUnavailable": 0, "maxSurge": 1}))
    old = {name_of(pod) for pod in (await site.run("a", "b")).values()}
    await site.status(numberAvailable=2)
    await site.change()
    for done in (1, 2):
        # One node has two pods; only when the second is ready does the first one go.
        doubled = await eventually(lambda: two_on_a_node(site))
        status = await site.status(numberAvailable=2, numberUnavailable=0)
        assert status.get("updatedNumberScheduled", 0) == done - 1
        [new] = [pod for pod in doubled if name_of(pod) not in old and not is_ready(pod)]
        await site.start(new, node_of(new))
        await site.status(updatedNumberScheduled=done)
    final = await site.on("a", "b")
    assert not old & {name_of(pod) for pod in final.values()}


async def two_on_a_node(site: Site) -> Any:
    doubled = [pods for pods in (await site.pods()).values() if len(pods) > 1]
    assert len(doubled) < 2, "no more than maxSurge nodes have two pods"
    return doubled[0] if doubled else None


def is_ready(pod: dict[str, Any]) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions") or ())


async def test_on_delete_leaves_old_pods_until_somebody_deletes_them(plane: ApiPlane, site: Site) -> None:
    await site.add("a", "b")
    await plane.client.create(DAEMON_SET, daemon(updateStrategy={"type": "OnDelete"}))
    old = await site.on("a", "b")
    await site.start(old["a"], "a")
    await site.start(old["b"], "b", ready=False)
    await site.status(numberReady=1)
    await site.change()
    await site.status(updatedNumberScheduled=0, numberAvailable=1)
    await plane.client.delete(POD, name_of(old["a"]), "ns")
    await site.status(updatedNumberScheduled=1)
    new = await site.on("a", "b")
    assert name_of(new["b"]) == name_of(old["b"])


async def test_a_pod_is_available_after_min_ready_seconds(plane: ApiPlane, site: Site) -> None:
    await site.add("a", "b")
    await plane.client.create(DAEMON_SET, daemon(minReadySeconds=1))
    await site.run("a", "b")
    await site.status(numberReady=2, numberAvailable=2)
    await site.change(minReadySeconds=600)
    await site.status(updatedNumberScheduled=2, numberAvailable=0)
    await site.run("a", "b")
    await site.status(numberReady=2, numberAvailable=0, numberUnavailable=2)


async def test_revisions_are_numbered_kept_up_to_the_limit_and_come_back_with_their_template(
    plane: ApiPlane, site: Site
) -> None:
    note = {"kubernetes.io/change-cause": "first"}
    first = daemon(revisionHistoryLimit=2)
    first["metadata"]["annotations"] = note
    await plane.client.create(DAEMON_SET, first)
    await site.status()
    assert (await site.revisions())[1]["metadata"]["annotations"]["kubernetes.io/change-cause"] == "first"
    for number in (2, 3):
        await site.change(number)
        await site.status()
    assert sorted(await site.revisions()) == [1, 2, 3]
    await site.change(4)
    await eventually(lambda: numbered(site, 2, 3, 4))
    await site.change(2)  # what `kubectl rollout undo` comes to
    await eventually(lambda: numbered(site, 3, 4, 5))


async def numbered(site: Site, *numbers: int) -> bool:
    return sorted(await site.revisions()) == list(numbers)


async def test_a_revision_name_that_is_taken_gives_another_name(plane: ApiPlane, site: Site) -> None:
    await site.add("a")
    await plane.client.create(DAEMON_SET, DAEMON)
    await site.status(currentNumberScheduled=1)
    [own] = (await site.revisions()).values()
    await plane.client.delete(DAEMON_SET, "log", "ns")

    async def gone() -> bool:
        return not await plane.client.list(POD, "ns") and not await site.revisions()

    await eventually(gone)
    taken = {"apiVersion": "apps/v1", "kind": "ControllerRevision", "revision": 1, "data": {"spec": {}}}
    metadata = {"name": name_of(own), "namespace": "ns"}
    await plane.client.create(CONTROLLER_REVISION, {**taken, "metadata": metadata})
    await plane.client.create(DAEMON_SET, DAEMON)
    await site.status(collisionCount=1, currentNumberScheduled=1)


@pytest.mark.parametrize("propagation", ["Background", "Foreground"])
async def test_a_deleted_set_takes_everything_along(plane: ApiPlane, site: Site, propagation: str) -> None:
    await site.add("a", "b")
    made: list[str] = []
    await plane.client.create(DAEMON_SET, daemon(pod={"terminationGracePeriodSeconds": 30}))
    before = await site.run("a", "b")
    plane.server.store.subscribe("controllerrevisions.apps", lambda event: made.append(event.type))
    plane.server.store.subscribe("pods", lambda event: made.append(event.type))
    await plane.client.delete(DAEMON_SET, "log", "ns", propagation=propagation)

    async def leaving() -> bool:
        pods = [pod for there in (await site.pods()).values() for pod in there]
        return all(pod["metadata"].get("deletionTimestamp") for pod in pods)

    await eventually(leaving)
    for pod in before.values():
        await plane.finish_deletion("ns", name_of(pod))

    async def gone() -> bool:
        return not (await site.pods() or await site.revisions() or await plane.client.list(DAEMON_SET, "ns"))

    await eventually(gone)
    assert "ADDED" not in made


async def test_what_may_not_be_created_is_told_and_tried_again(plane: ApiPlane, site: Site) -> None:
    await site.add("a", "b")
    enforce = "pod-security.kubernetes.io/enforce"
    await plane.client.patch(NAMESPACE, "ns", {"metadata": {"labels": {enforce: "baseline"}}})
    await plane.client.create(DAEMON_SET, daemon(pod={"hostNetwork": True}))
    assert "violates PodSecurity" in await site.told("FailedCreate")
    await site.status(desiredNumberScheduled=2, currentNumberScheduled=0)
    await plane.client.patch(NAMESPACE, "ns", {"metadata": {"labels": {enforce: None}}})
    await site.on("a", "b")


@pytest.mark.parametrize(
    ("rolling", "field"),
    [
        ({"maxUnavailable": 0}, "maxUnavailable: Required value: cannot be 0 when maxSurge is 0"),
        ({"maxUnavailable": 1, "maxSurge": 1}, "may not be set when maxUnavailable is non-zero"),
        ({"maxUnavailable": "101%"}, "must not be greater than 100%"),
        ({"maxUnavailable": -1}, "must be greater than or equal to 0"),
        ({"maxUnavailable": "many"}, "must be an integer or percentage"),
    ],
)
async def test_an_update_that_could_never_move_is_refused(plane: ApiPlane, rolling: Any, field: str) -> None:
    with pytest.raises(Invalid, match=field):
        await plane.client.create(DAEMON_SET, daemon(rolling=rolling))


async def test_only_the_server_counts_the_template(plane: ApiPlane) -> None:
    key = "deprecated.daemonset.template.generation"
    made = daemon()
    made["metadata"]["annotations"] = {key: "7"}
    made = await plane.client.create(DAEMON_SET, made)
    assert made["metadata"]["annotations"][key] == "1"
    same = await plane.client.patch(DAEMON_SET, "log", {"metadata": {"annotations": {key: "9", "x": "y"}}}, "ns")
    assert same["metadata"]["annotations"] == {key: "1", "x": "y"}
    patch = {"spec": {"template": {"metadata": {"annotations": {"n": "2"}}}}}
    assert (await plane.client.patch(DAEMON_SET, "log", patch, "ns"))["metadata"]["annotations"][key] == "2"
